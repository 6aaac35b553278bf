package exec

import (
	"fmt"
	"os"
	"testing"

	programs "github.com/AlexCherrypi/anchord/test/tools"
)

// The tables are looked at in a real kernel, by the real nft.
func TestMain(m *testing.M) {
	if err := programs.Use("test"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}
