package anchord

// Ruleset is a rendered ruleset, in nft's language.
type Ruleset struct {
	// Body declares the tables with their sets, maps, chains and rules. It
	// does not depend on which containers run.
	Body string
	// Frame is what of Body is no rule: tables, sets, base chains. Rules can
	// be replaced in standing tables; another frame needs the tables anew.
	Frame string
	// Origins tells of each line of Body which template it comes from; nil
	// where all are embedded.
	Origins []Origin
	// Sets hold the elements of the named sets and maps, which change with
	// the containers.
	Sets []Set
}

// Origin is a place in a template.
type Origin struct {
	File string
	Line int
}

// Set is the content of one named set or map.
type Set struct {
	Table    string // family and name, as in "ip anchord_v4"
	Name     string
	Elements []Element // sorted
}

// Element is one element: its key, and the whole of it as it is added.
type Element struct{ Key, Text string }

// Names of what operators' tools look for in the kernel.
const (
	TableV4 = "ip anchord_v4"
	TableV6 = "ip6 anchord_v6"
	// SerialSet holds the number of the last change that anchord made. It is
	// replaced with every change, so that a transaction that does not is
	// somebody else's.
	SerialSet = "serial"
)

// Table is the name of a family's table, with nft's word for the family.
func Table(f Family) string {
	if f == V6 {
		return TableV6
	}
	return TableV4
}

// DNATMap is the name of the map from public ports to backends: one of single
// ports, one of ranges whose ports are kept.
func DNATMap(p Protocol, ranges bool) string {
	if ranges {
		return "dnat_" + string(p) + "_ranges"
	}
	return "dnat_" + string(p)
}
