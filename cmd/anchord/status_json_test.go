package main

import (
	"bytes"
	"encoding/json"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/AlexCherrypi/anchord"
	"github.com/AlexCherrypi/anchord/test/generated"
)

// everyStatus is one of each mode, with all of its fields.
func everyStatus() map[string]shown {
	seconds, at := int64(3599), time.Date(2025, 1, 2, 3, 4, 5, 0, time.UTC)
	problems := []problemStatus{{anchord.EventExposeConflict, "container new does not get tcp/80", "new"}}
	return map[string]shown{
		"status-network-anchor-json": &statusReport{
			Anchord: "network-anchor", Unmet: []string{"the ruleset is not in the kernel"}, Project: "mailcow", Hostname: "mailcow",
			Interface: "lan0", MAC: "02:42:ab:da:a2:a4", Addresses: []string{"192.0.2.77/24"}, Mode: "dhcp-refresh",
			Leases:   []leaseStatus{{"v4", "192.0.2.77/24", "192.0.2.2", &seconds, []string{"192.0.2.53"}}},
			Asking:   []askingStatus{{"v6", at, 2}},
			Gateways: []gatewayStatus{{"v4", "192.0.2.1", "lease"}}, Network: "mailcow_transit",
			Exposed:  []exposedStatus{{"v4", "tcp", "25", "postfix", "10.213.0.5:25", 1234}},
			Problems: problems, Changed: &at, Docker: &dockerStatus{Error: "gone"}, Looked: &at, PollSeconds: 30,
		},
		"status-service-anchor-json": &followReport{
			Anchord: "service-anchor", Unmet: []string{"no default route"}, Gateway: "anchord", Addresses: []string{"10.213.0.10/24 on eth0"},
			Routes: []followedRoute{{"v4", "10.213.0.2", "eth0", true}}, Problems: problems, Changed: &at,
		},
		"status-rebinder-json": &rebinderReport{
			Anchord: "external-rebinder", Unmet: []string{"docker was not asked yet"}, Target: "app", Network: "db",
			Docker: &dockerStatus{Connected: true}, Last: &doneStatus{at, anchord.EventFollowJoined, "attached"},
		},
	}
}

// The JSON is what others build on: a golden file each, and every field is
// documented.
func TestStatusJSONIsDocumented(t *testing.T) {
	docs, err := os.ReadFile("../../docs/status.md")
	if err != nil {
		t.Fatal(err)
	}
	if example, err := os.ReadFile("testdata/status-working.golden"); err != nil || !strings.Contains(string(docs), "```\n"+string(example)+"```\n") {
		t.Errorf("docs/status.md does not show testdata/status-working.golden (%v)", err)
	}
	for name, report := range everyStatus() {
		var out bytes.Buffer
		encoder := json.NewEncoder(&out)
		encoder.SetIndent("", "  ")
		if err := encoder.Encode(report); err != nil {
			t.Fatal(err)
		}
		generated.Golden(t, name, out.String())
		read, err := readStatus(out.Bytes())
		if err != nil || !reflect.DeepEqual(read, report) {
			t.Errorf("%s is read as %+v (%v)", name, read, err)
		}
		for _, field := range fields(reflect.TypeOf(report).Elem()) {
			if !strings.Contains(string(docs), "`"+field+"`") && !strings.Contains(string(docs), "`"+field+"[]`") {
				t.Errorf("docs/status.md does not document %s of %s", field, name)
			}
		}
		if report.print(&out) != nil {
			t.Errorf("%s cannot be printed", name)
		}
	}
}

// fields are the names of a struct's fields in JSON, and of those in it.
func fields(of reflect.Type) (names []string) {
	for of.Kind() == reflect.Pointer || of.Kind() == reflect.Slice {
		of = of.Elem()
	}
	if of.Kind() != reflect.Struct || of == reflect.TypeFor[time.Time]() {
		return nil
	}
	for i := range of.NumField() {
		name, _, _ := strings.Cut(of.Field(i).Tag.Get("json"), ",")
		names = append(append(names, name), fields(of.Field(i).Type)...)
	}
	return names
}

// Names are long in practice; a terminal has 80 columns all the same.
func TestStatusFitsATerminal(t *testing.T) {
	report := statusReport{
		Ready: true, Project: "nextcloud-of-the-family-and-friends", Hostname: "nextcloud-of-the-family-and-friends", Interface: "lan0", MAC: "02:42:ab:da:a2:a4",
		Addresses: []string{"2001:db8:1111:2222:42:abff:feda:a2a4/64 (in use by another host)"}, Docker: &dockerStatus{Error: strings.Repeat("it is gone, ", 20)},
		Network:  "nextcloud-of-the-family-and-friends_transit",
		Exposed:  []exposedStatus{{"v6", "udp", "49152-49252", "nextcloud-of-the-family-and-friends-turn-1", "[fd5a:1::5]:49152-49252", 123456}},
		Problems: []problemStatus{{Event: "netns.dead", Message: strings.Repeat("word ", 40)}},
	}
	var out bytes.Buffer
	if err := report.print(&out); err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(out.String()) {
		if len(strings.TrimSuffix(line, "\n")) > 80 {
			t.Errorf("%d columns: %s", len(line)-1, line)
		}
	}
}
