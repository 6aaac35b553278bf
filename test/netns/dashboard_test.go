package netns_test

import (
	"bytes"
	"context"
	"encoding/xml"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/AlexCherrypi/anchord/test/dashboard"
)

var (
	pictureFile = flag.String("picture", "", "write the picture of the dashboard in docs/ to this file")
	pictureTime = flag.Duration("picture-time", 5*time.Minute, "how long a run the picture shows")
)

// prometheus starts the real one in the network-anchor's namespace. It scrapes
// each target once a second.
func (w *world) prometheus(targets map[string]string) *dashboard.Prometheus {
	w.t.Helper()
	config := "global: {scrape_interval: 1s, scrape_timeout: 1s}\nscrape_configs:\n- job_name: anchord\n  static_configs:\n"
	for instance, addr := range targets {
		config += fmt.Sprintf("  - {targets: [%q], labels: {instance: %q}}\n", addr, instance)
	}
	const addr = "127.0.0.1:9091"
	p := w.box.start(dashboard.Program("prometheus"), "--config.file="+w.write("prometheus.yml", config),
		"--storage.tsdb.path="+w.dir+"/tsdb", "--web.listen-address="+addr, "--log.level=warn")
	asked := &dashboard.Prometheus{URL: "http://" + addr}
	asked.Client.Transport = &http.Transport{
		DisableKeepAlives: true,
		DialContext:       func(_ context.Context, network, addr string) (net.Conn, error) { return w.box.open(network, addr) },
	}
	eventually(w.t, hang, func() error {
		select {
		case <-p.exited:
			w.t.Fatalf("prometheus ended: %v\n%s", p.err, p.errOut)
		default:
		}
		_, err := asked.Range("up", time.Now().Add(-time.Minute), time.Now(), time.Second)
		return err
	})
	return asked
}

// Every query of the dashboard is asked of a real Prometheus that scrapes a
// real network-anchor and a real service-anchor.
func TestDashboard(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	server := w.startDHCPD("198.51.100.77", 40*time.Second)
	web := w.backend("web", 10, "tcp/80")
	web.serveTCP("web", ":80")
	w.anchord("ANCHORD_METRICS_ADDR=:9090", "ANCHORD_POLL_INTERVAL=10s", "ANCHORD_DHCP_BACKOFF_MAX=10s").ready().leased()
	dns := w.startNames("anchord", boxIP)
	app := w.internalApp("app", 12)
	w.serviceAnchor(app, "ANCHORD_GATEWAY_RESOLVE_INTERVAL=5s", "ANCHORD_METRICS_ADDR=:9090").ready()
	d, err := dashboard.Load("../..")
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	p := w.prometheus(map[string]string{"shop": "127.0.0.1:9090", "app": app.ip + ":9090"})
	for _, panel := range d.Panels {
		for _, target := range panel.Targets {
			eventually(t, hang, func() error {
				series, err := p.Range(target.Query("5s"), start, time.Now(), time.Second)
				if err == nil && len(series) == 0 {
					err = errors.New("nothing")
				}
				if err != nil {
					err = fmt.Errorf("%s, %s: %w", panel.Title, target.Expr, err)
				}
				return err
			})
		}
	}
	if *pictureFile != "" {
		w.busy(*pictureTime, web, server, dns)
	}
	var svg bytes.Buffer
	if err := d.Draw(&svg, p, start, time.Now(), "40s"); err != nil {
		t.Fatal(err)
	}
	if err := wellFormed(svg.Bytes()); err != nil || !strings.Contains(svg.String(), ">shop<") {
		t.Errorf("the drawing: %v", err)
	}
	if *pictureFile != "" {
		if err := os.WriteFile(*pictureFile, svg.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func wellFormed(text []byte) error {
	d := xml.NewDecoder(bytes.NewReader(text))
	for {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// busy is some minutes in the life of a project, for the picture.
func (w *world) busy(length time.Duration, web *backend, server *dhcpd, dns *names) {
	w.t.Helper()
	course := []func(){
		func() { w.backend("mail", 20, "tcp/25, tcp/143, tcp/993") },
		func() { // a client's connection leads to what is no more
			w.client.session("198.51.100.77:80")
			w.docker.Restart(web.id)
		},
		func() { w.box.run("ip", "route", "delete", "default") },
		func() { w.backend("rival", 21, "tcp/80") },
		func() { server.change(func(d *dhcpd) { d.silent = true }) },
		func() { w.docker.Down() },
		func() {
			if err := w.docker.Up(); err != nil {
				w.t.Error(err)
			}
		},
		func() { server.change(func(d *dhcpd) { d.silent = false }) },
		func() { w.box.run("nft", "delete", "table", "ip", "anchord_v4") },
		func() { w.backend("dns", 22, "udp/53, tcp/53") },
		func() { dns.set("10.213.0.3 anchord\n") },
		func() { dns.set(boxIP + " anchord\n") },
		func() { w.docker.Remove(project + "-rival-1") },
	}
	tick := time.NewTicker(length / time.Duration(len(course)+1))
	defer tick.Stop()
	for _, act := range course {
		<-tick.C
		act()
	}
	<-tick.C
}
