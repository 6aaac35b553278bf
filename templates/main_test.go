package templates_test

import (
	"fmt"
	"os"
	"testing"

	"github.com/AlexCherrypi/anchord/test/tools"
)

// Rulesets are given to the real nft.
func TestMain(m *testing.M) {
	if err := tools.Use("test"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}
