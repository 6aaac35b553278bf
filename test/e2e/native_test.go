package e2e

import (
	"context"
	"encoding/hex"
	"fmt"
	"strings"
	"time"
)

var scenarios = []scenario{
	{name: "native example", run: nativeExample},
}

var unfiltered = []scenario{}

var alone = []scenario{}

// hexID is the client identifier of a name as the lease table shows it: type 0,
// then the name.
func hexID(name string) string {
	id := "00"
	for _, b := range []byte(name) {
		id += ":" + hex.EncodeToString([]byte{b})
	}
	return id
}

// nativeExample is S-1 and S-2 with the file that the README shows.
func nativeExample(s *site) {
	p := s.projectOf("myserver", readExample(s.T, "native/compose.yaml"), "")
	start := p.up()
	lease := p.lease("myserver")
	s.within(30*time.Second, start, "whoami answers the LAN", answers(s.lan.Client, "tcp", lease.Addr, 8080))
	if lease.ClientID != hexID("myserver") {
		s.Errorf("the lease table shows client identifier %s, want %s", lease.ClientID, hexID("myserver"))
	}
	if !s.lan.Pool.Contains(lease.Addr) {
		s.Errorf("the address %s is not of the DHCP server's pool", lease.Addr)
	}
	s.within(30*time.Second, start, "nginx serves its page", func(ctx context.Context) error {
		page, err := fetch(ctx, s.lan.Client, "http://"+lease.Addr.String()+"/")
		if err == nil && !strings.Contains(page, "nginx") {
			err = fmt.Errorf("got %q", page)
		}
		return err
	})
	s.within(5*time.Second, time.Now(), "nginx logs the client's address", func(context.Context) error {
		log := p.docker("logs", p.container("web"))
		if !strings.HasPrefix(log, s.lan.Client.Addr.String()+" ") && !strings.Contains(log, "\n"+s.lan.Client.Addr.String()+" ") {
			return fmt.Errorf("nginx's log is %q", log)
		}
		return nil
	})
}
