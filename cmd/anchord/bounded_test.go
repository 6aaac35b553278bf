package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/AlexCherrypi/anchord"
)

const muchText = 1 << 20

// wantShort looks for the beginning of so many texts that were cut.
func wantShort(t *testing.T, what, text string, texts int) {
	t.Helper()
	if most := texts*(anchord.LongestText+500) + 1000; len(text) > most || !strings.Contains(text, "beginning") || !strings.Contains(text, "(cut, of ") {
		t.Errorf("%s has %d bytes: %.200q", what, len(text), text)
	}
}

func TestLogLinesOfLongTextsStayShort(t *testing.T) {
	long := "beginning " + strings.Repeat("x", muchText)
	var out bytes.Buffer
	fields := anchord.Fields{"text": long, "list": []string{long, long}, "error": errors.New(long), "map": map[string]string{"a": long}, "number": 7}
	newLogger(&out, logrus.InfoLevel).Event(anchord.Error, "test", long, fields)
	wantShort(t, "the log line", out.String(), 6)
	if list := fields["list"].([]string); len(list[0]) != len(long) {
		t.Error("what the caller has was changed")
	}
	var line map[string]any
	if err := json.Unmarshal(out.Bytes(), &line); err != nil || line["number"] != 7.0 {
		t.Errorf("%v: %v", err, line["number"])
	}
}

// fill writes a text into every place of a report that can have one.
func fill(v reflect.Value, text string) (texts int) {
	switch v.Kind() {
	case reflect.String:
		v.SetString(text)
		return 1
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[time.Time]() {
			return 0
		}
		for i := range v.NumField() {
			texts += fill(v.Field(i), text)
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		texts = fill(v.Index(0), text) + fill(v.Index(1), text)
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		texts = fill(v.Elem(), text)
	}
	return texts
}

func TestReportsOfLongTextsStayShort(t *testing.T) {
	long := "beginning " + strings.Repeat("x", muchText)
	for name, report := range map[string]any{
		"network-anchor's status": &statusReport{}, "service-anchor's status": &followReport{}, "rebinder's status": &rebinderReport{},
	} {
		texts := fill(reflect.ValueOf(report).Elem(), long)
		s := server{registry: newRegistry(always), unmet: func() []string { return []string{long} }, status: func(context.Context) any { return report }}
		answer := httptest.NewRecorder()
		s.socketHandler().ServeHTTP(answer, httptest.NewRequest("GET", "/status", nil))
		wantShort(t, name, answer.Body.String(), texts)
		answer = httptest.NewRecorder()
		s.socketHandler().ServeHTTP(answer, httptest.NewRequest("GET", "/readyz", nil))
		wantShort(t, "readiness", answer.Body.String(), 1)
	}
	for _, json := range []bool{false, true} {
		var d diagnosis
		texts := fill(reflect.ValueOf(&d).Elem(), long)
		var out bytes.Buffer
		if err := (&examineCmd{JSON: json}).tell(&out, d); err != nil {
			t.Fatal(err)
		}
		wantShort(t, "the diagnosis", out.String(), 2*texts)
	}
}
