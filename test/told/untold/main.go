// Untold says which events of the list no test has seen; its argument is the
// file that they wrote.
package main

import (
	"fmt"
	"os"
	"strings"

	"github.com/AlexCherrypi/anchord/test/told"
)

func main() {
	seen, err := os.ReadFile(os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	if missing := told.Untold(string(seen)); len(missing) > 0 {
		fmt.Fprintf(os.Stderr, "no test has seen these events logged:\n\t%s\n", strings.Join(missing, "\n\t"))
		os.Exit(1)
	}
}
