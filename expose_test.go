package anchord_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/AlexCherrypi/anchord"
)

func printed(exposures []anchord.Exposure) string {
	var words []string
	for _, e := range exposures {
		words = append(words, fmt.Sprintf("%s %d-%d>%d", e.Protocol, e.First, e.Last, e.Backend))
	}
	return strings.Join(words, ", ")
}

func TestExposeLabelAccepted(t *testing.T) {
	for _, tt := range []struct{ name, label, want string }{
		{"no label", "", ""},
		{"only spaces", " \t ", ""},
		{"one port", "tcp/25", "tcp 25-25>25"},
		{"another port inside", "udp/53:5353", "udp 53-53>5353"},
		{"range that keeps its ports", "udp/49152-49252", "udp 49152-49252>49152"},
		{"shifted range", "tcp/8000-8010:9000", "tcp 8000-8010>9000"},
		{"range shifted onto itself", "tcp/8000-8010:8000", "tcp 8000-8010>8000"},
		{"range of one port", "tcp/80-80", "tcp 80-80>80"},
		{"several, in the order written", "tcp/465,tcp/25,udp/53", "tcp 465-465>465, tcp 25-25>25, udp 53-53>53"},
		{"spaces everywhere", " tcp / 25 : 2525 ,\tudp/ 10 - 20 ", "tcp 25-25>2525, udp 10-20>10"},
		{"any case", "TCP/25,Udp/53", "tcp 25-25>25, udp 53-53>53"},
		{"one port of both protocols", "tcp/53,udp/53", "tcp 53-53>53, udp 53-53>53"},
		{"two ports to one inside", "tcp/80:8080,tcp/81:8080", "tcp 80-80>8080, tcp 81-81>8080"},
		{"adjacent ranges", "tcp/10-19,tcp/20-29", "tcp 10-19>10, tcp 20-29>20"},
		{"first and last port there is", "tcp/1,tcp/65535", "tcp 1-1>1, tcp 65535-65535>65535"},
		{"all ports", "tcp/1-65535", "tcp 1-65535>1"},
		{"shifted to the very end", "tcp/10-12:65533", "tcp 10-12>65533"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := anchord.ParseExpose(tt.label)
			if err != nil || printed(got) != tt.want {
				t.Errorf("ParseExpose(%q) = %q, %v; want %q", tt.label, printed(got), err, tt.want)
			}
		})
	}
}

func TestExposeLabelRefused(t *testing.T) {
	for _, tt := range []struct{ name, label, entry, reason string }{
		{"empty entry between commas", "tcp/25,,tcp/80", "", "remove the extra comma"},
		{"comma at the end", "tcp/25,", "", "remove the extra comma"},
		{"only a comma", ",", "", "remove the extra comma"},
		{"no protocol", "25", "25", "has no protocol"},
		{"Docker's order", "25/tcp", "25/tcp", `the protocol comes first; write tcp/25`},
		{"unknown protocol", "sctp/25", "sctp/25", `protocol "sctp" is neither tcp nor udp`},
		{"no port", "tcp/", "tcp/", `port "" is not a number`},
		{"port zero", "tcp/0", "tcp/0", `port "0" is not a number from 1 to 65535`},
		{"port too big", "tcp/65536", "tcp/65536", `port "65536"`},
		{"leading zero, which others read as octal", "tcp/010", "tcp/010", `port "010"`},
		{"plus sign", "tcp/+80", "tcp/+80", `port "+80"`},
		{"minus sign", "tcp/-80", "tcp/-80", `port ""`},
		{"underscores, which Go allows", "tcp/8_0", "tcp/8_0", `port "8_0"`},
		{"hexadecimal", "tcp/0x50", "tcp/0x50", `port "0x50"`},
		{"digits of another script", "tcp/٨٠", "tcp/٨٠", `port "٨٠"`},
		{"name of a service", "tcp/http", "tcp/http", `port "http"`},
		{"range that ends before it begins", "tcp/20-10", "tcp/20-10", "range 20-10 ends before it begins"},
		{"range without end", "tcp/20-", "tcp/20-", `port ""`},
		{"range of three", "tcp/1-2-3", "tcp/1-2-3", `port "2-3"`},
		{"range up to a port that does not exist", "tcp/1-65536", "tcp/1-65536", `port "65536"`},
		{"nothing after the colon", "tcp/25:", "tcp/25:", `backend port ""`},
		{"backend port zero", "tcp/25:0", "tcp/25:0", `backend port "0"`},
		{"backend range, where its first port is meant", "tcp/10-20:30-40", "tcp/10-20:30-40", `backend port "30-40"`},
		{"range shifted beyond the last port", "tcp/10-12:65534", "tcp/10-12:65534", "would end at port 65536, beyond 65535"},
		{"same port twice", "tcp/25,tcp/25", "tcp/25", `overlaps the entry "tcp/25" of the same label`},
		{"port inside an earlier range", "udp/10-20,udp/15:99", "udp/15:99", `overlaps the entry "udp/10-20"`},
		{"range around an earlier port", "udp/15:99,udp/10-20", "udp/10-20", `overlaps the entry "udp/15:99"`},
		{"good entries do not save a bad one", "tcp/25,tcp/x,tcp/80", "tcp/x", `port "x"`},
		{"newline inside", "tcp/25\ntcp/80", "tcp/25\ntcp/80", "is not a number"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := anchord.ParseExpose(tt.label)
			var bad *anchord.LabelError
			if !errors.As(err, &bad) || got != nil {
				t.Fatalf("ParseExpose(%q) = %v, %v; want only a LabelError", tt.label, got, err)
			}
			if bad.Label != "anchord.expose" || bad.Entry != tt.entry || !strings.Contains(bad.Reason, tt.reason) {
				t.Errorf("ParseExpose(%q): label %q, entry %q, reason %q; want entry %q, reason with %q", tt.label, bad.Label, bad.Entry, bad.Reason, tt.entry, tt.reason)
			}
			for _, part := range []string{bad.Label, fmt.Sprintf("%q", bad.Entry), bad.Reason} {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("the message %q does not say %s", err, part)
				}
			}
		})
	}
}

// FuzzParseExpose: what is accepted never overlaps, stays within the ports
// that there are, and reads the same when it is printed and read again.
func FuzzParseExpose(f *testing.F) {
	f.Fuzz(func(t *testing.T, label string) {
		exposures, err := anchord.ParseExpose(label)
		if err != nil {
			var bad *anchord.LabelError
			if !errors.As(err, &bad) || bad.Reason == "" || exposures != nil {
				t.Fatalf("ParseExpose(%q) = %v, %v", label, exposures, err)
			}
			return
		}
		var again []string
		used := map[anchord.Protocol]map[int]bool{anchord.TCP: {}, anchord.UDP: {}}
		for _, e := range exposures {
			again = append(again, e.String())
			if e.First == 0 || e.Last < e.First || e.Backend == 0 || int(e.Backend)+e.Ports()-1 > 65535 {
				t.Fatalf("ParseExpose(%q) accepts %+v", label, e)
			}
			for port := int(e.First); port <= int(e.Last); port++ {
				if used[e.Protocol][port] {
					t.Fatalf("ParseExpose(%q) gives port %d twice", label, port)
				}
				used[e.Protocol][port] = true
			}
		}
		reread, err := anchord.ParseExpose(strings.Join(again, ","))
		if err != nil || printed(reread) != printed(exposures) {
			t.Fatalf("ParseExpose(%q) = %s; printed and read again: %s, %v", label, printed(exposures), printed(reread), err)
		}
	})
}
