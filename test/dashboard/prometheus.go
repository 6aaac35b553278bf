package dashboard

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// Prometheus is one that can be asked.
type Prometheus struct {
	Client http.Client
	URL    string
}

// Series is one line of an answer.
type Series struct {
	Labels map[string]string
	Points []Point
}

// Point is a value, NaN included, at a time in seconds since 1970.
type Point struct{ Time, Value float64 }

// Range asks for the values of an expression over a time.
func (p *Prometheus) Range(query string, from, to time.Time, step time.Duration) ([]Series, error) {
	seconds := func(t time.Time) string { return strconv.FormatFloat(float64(t.UnixMilli())/1000, 'f', 3, 64) }
	response, err := p.Client.PostForm(p.URL+"/api/v1/query_range", url.Values{
		"query": {query}, "start": {seconds(from)}, "end": {seconds(to)}, "step": {strconv.FormatFloat(step.Seconds(), 'f', 3, 64)},
	})
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	var answer struct {
		Error string
		Data  struct {
			Result []struct {
				Metric map[string]string
				Values [][2]any
			}
		}
	}
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil {
		return nil, fmt.Errorf("asking %s: %s: %w", query, response.Status, err)
	}
	if answer.Error != "" {
		return nil, fmt.Errorf("asking %s: %s", query, answer.Error)
	}
	var all []Series
	for _, r := range answer.Data.Result {
		s := Series{Labels: r.Metric}
		for _, v := range r.Values {
			at, _ := v[0].(float64)
			text, _ := v[1].(string)
			value, err := strconv.ParseFloat(text, 64)
			if err != nil {
				return nil, fmt.Errorf("asking %s: %w", query, err)
			}
			s.Points = append(s.Points, Point{at, value})
		}
		all = append(all, s)
	}
	return all, nil
}
