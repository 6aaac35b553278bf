package anchord

// Nearest is the name that somebody most likely meant who wrote another one: the
// first of those that differ from it least, and by no more than two letters; empty
// if there is none.
func Nearest(name string, known []string) string {
	nearest, least := "", 3
	for _, k := range known {
		if d := distance(name, k, least); d < least {
			nearest, least = k, d
		}
	}
	return nearest
}

// distance is how many letters have to be put in, left out or replaced to make b
// of a (Levenshtein); more than limit, if their lengths alone tell.
func distance(a, b string, limit int) int {
	if d := len(a) - len(b); d > limit || -d > limit {
		return limit + 1
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
