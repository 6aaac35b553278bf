package anchord

import (
	"fmt"
	"strconv"
	"unicode/utf8"
)

// How much of what others wrote is shown. Labels, container names, DHCP options and
// what tools and engines say may be of any length; a megabyte of it in each log
// line, status and notice would hide what is to be read, and fill disks.
const (
	// longestQuoted of one value is beyond what Compose's own names reach, and fits
	// on two lines.
	longestQuoted = 128
	// LongestText of a whole message has room for a command that names a hundred
	// containers.
	LongestText = 8 << 10
)

// Cut returns s, or where it is longer than most bytes, its beginning, and how
// much there was.
func Cut(s string, most int) string {
	if len(s) <= most {
		return s
	}
	end := most
	for end > 0 && !utf8.RuneStart(s[end]) {
		end--
	}
	return fmt.Sprintf("%s… (cut, of %d bytes)", s[:end], len(s))
}

// Short is somebody else's word as it may stand in a sentence.
func Short(s string) string { return Cut(s, longestQuoted) }

// quoted is the same in quotes.
func quoted(s string) string { return strconv.Quote(Short(s)) }
