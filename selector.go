package anchord

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// ParseSelector reads a label selector: k=v pairs separated by commas, all of
// which must match, by equality only. Spaces around keys and values are
// tolerated, the same pair twice counts once. An empty selector, a pair
// without "=", an empty key, or a key with two values is an error.
func ParseSelector(s string) (Scope, error) {
	values := map[string]string{}
	for _, pair := range strings.Split(s, ",") {
		key, value, found := strings.Cut(pair, "=")
		key, value = strings.TrimSpace(key), strings.TrimSpace(value)
		switch {
		case !found:
			return Scope{}, fmt.Errorf("%q has no '='", strings.TrimSpace(pair))
		case key == "":
			return Scope{}, fmt.Errorf("%q has no key before '='", strings.TrimSpace(pair))
		}
		if old, seen := values[key]; seen && old != value {
			return Scope{}, fmt.Errorf("key %q has two values, %q and %q: no container can match both", key, old, value)
		}
		values[key] = value
	}
	if len(values) == 0 {
		return Scope{}, errors.New("is empty")
	}
	var scope Scope
	for k, v := range values {
		scope.Labels = append(scope.Labels, LabelPair{k, v})
	}
	slices.SortFunc(scope.Labels, func(a, b LabelPair) int { return strings.Compare(a.Key, b.Key) })
	return scope, nil
}
