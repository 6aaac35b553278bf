package anchord

import (
	"cmp"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
)

// Labels of a service-anchor that the network-anchor made.
const (
	LabelManagedBy = LabelPrefix + "managed-by" // id of the network-anchor that did
	labelRecipe    = LabelPrefix + "recipe"     // what it was made of
	labelReplaces  = LabelPrefix + "replaces"   // ids of those that it took the place of
)

// Recipe says what service-anchor the network-anchor makes by itself in the
// namespace of a container that is not its own: ANCHORD_MANAGED_SA_*.
type Recipe struct {
	Target   string // name of the container
	Name     string // empty: the target's and "-service-anchor"
	Image    string // empty: the network-anchor's own
	Gateways PerFamily[netip.Addr]
	Env      map[string]string
	Labels   map[string]string
}

// ContainerSpec is a container to be made.
type ContainerSpec struct {
	Name        string
	Image       string
	NamespaceOf string
	Env         []string
	Labels      map[string]string
}

func (r Recipe) name() string {
	return cmp.Or(r.Name, strings.TrimPrefix(r.Target, "/")+"-service-anchor")
}

// ParseEnv reads the further variables of a managed service-anchor, as a JSON
// object of strings.
func ParseEnv(s string) (map[string]string, error) {
	env, err := parseObject(s)
	if err != nil {
		return nil, err
	}
	for _, key := range slices.Sorted(maps.Keys(env)) {
		switch {
		case key == "" || strings.ContainsAny(key, "=\x00"):
			return nil, fmt.Errorf("%q is no variable's name", key)
		case strings.Contains(env[key], "\x00"):
			return nil, fmt.Errorf("the value of %q holds a zero byte", key)
		case key == "ANCHORD_MODE" || key == "ANCHORD_GATEWAY_IP":
			return nil, fmt.Errorf("%s is set by the network-anchor itself", key)
		}
	}
	return env, nil
}

// ParseLabels reads the further labels of a managed service-anchor, as a JSON
// object of strings. Those that say whose it is are anchord's.
func ParseLabels(s string) (map[string]string, error) {
	labels, err := parseObject(s)
	if err != nil {
		return nil, err
	}
	for _, key := range slices.Sorted(maps.Keys(labels)) {
		if key == "" {
			return nil, errors.New("a label has no name")
		}
		if strings.HasPrefix(key, "com.docker.compose.") || slices.Contains([]string{LabelManagedBy, labelRecipe, labelReplaces}, key) {
			return nil, fmt.Errorf("the label %s is reserved", key)
		}
	}
	return labels, nil
}

// parseObject refuses a key that is given twice, of which one would be lost.
func parseObject(s string) (map[string]string, error) {
	if strings.TrimSpace(s) == "" {
		return nil, nil
	}
	d := json.NewDecoder(strings.NewReader(s))
	object := map[string]string{}
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return nil, errNotAnObject
	}
	for d.More() {
		key, err := d.Token()
		name, isName := key.(string)
		var value *string
		if err != nil || !isName || d.Decode(&value) != nil || value == nil { // null decodes
			return nil, errNotAnObject
		}
		if _, twice := object[name]; twice {
			return nil, fmt.Errorf("%q is there twice", name)
		}
		object[name] = *value
	}
	if _, err := d.Token(); err != nil || strings.TrimSpace(s[d.InputOffset():]) != "" {
		return nil, errNotAnObject
	}
	return object, nil
}

var errNotAnObject = errors.New(`is not a JSON object of strings, as in {"key": "value"}`)

// spec words the recipe for a network-anchor. To Compose it is like a container
// of `compose run` of the network-anchor's service: `down --remove-orphans` removes
// it, `up` lets it be. Compose has no mark for what `down` alone removes and `up`
// does not.
func (r Recipe) spec(self Member, gateways PerFamily[netip.Addr], replaces []string) ContainerSpec {
	env := maps.Clone(r.Env)
	if env == nil {
		env = map[string]string{}
	}
	env["ANCHORD_MODE"], env["ANCHORD_GATEWAY_IP"] = "service-anchor", joinGateways(gateways)
	s := ContainerSpec{Name: r.name(), Image: cmp.Or(r.Image, self.ImageID), NamespaceOf: strings.TrimPrefix(r.Target, "/"), Labels: map[string]string{}}
	for _, key := range slices.Sorted(maps.Keys(env)) {
		s.Env = append(s.Env, key+"="+env[key])
	}
	maps.Copy(s.Labels, r.Labels)
	if project := self.Project(); project != "" {
		s.Labels[labelProject], s.Labels[labelService] = project, self.Labels[labelService]
		s.Labels[labelOneOff], s.Labels[labelConfigHash] = "True", self.Labels[labelConfigHash]
	}
	s.Labels[LabelManagedBy] = self.ID
	s.Labels[labelRecipe] = s.digest()
	if len(replaces) > 0 {
		s.Labels[labelReplaces] = strings.Join(replaces, ",")
	}
	return s
}

// digest tells whether a container was made of the same recipe. Whose it is, is
// not part of that: a recreated network-anchor has another id. Nor is the image,
// which is compared by itself.
func (s ContainerSpec) digest() string {
	s.Image, s.Name = "", ""
	s.Labels = maps.Clone(s.Labels)
	for _, label := range []string{LabelManagedBy, labelRecipe, labelReplaces, labelProject, labelService, labelOneOff, labelConfigHash} {
		delete(s.Labels, label)
	}
	text, err := json.Marshal(s) // with sorted keys
	if err != nil {
		panic(err) // strings only
	}
	return fmt.Sprintf("%x", sha256.Sum256(text))[:16]
}

func joinGateways(gateways PerFamily[netip.Addr]) string {
	var list []string
	for _, f := range Families {
		if gateways[f].IsValid() {
			list = append(list, gateways[f].String())
		}
	}
	return strings.Join(list, ",")
}
