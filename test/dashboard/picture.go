package dashboard

import (
	"bufio"
	"cmp"
	"fmt"
	"html"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The picture's measures, in pixels: of one unit of Grafana's grid, and inside
// of a panel.
const (
	column, unit = 60, 30
	gap          = 4
	left, right  = 52, 14
	top, bottom  = 34, 66
	legendLine   = 16
	letter       = 6.1 // width of one, at the legend's size
)

var (
	palette = []string{"#3a9d3a", "#e0762c", "#2f74d0", "#c4384c", "#8a5cc2", "#b08a00", "#1497a6", "#7a4a2e", "#d05fa8", "#5b6b7b"}
	colours = map[string]string{"green": "#2f9e44", "red": "#d6293e", "yellow": "#c98a00", "blue": "#2f74d0"}
)

// picture is one drawing of a dashboard.
type picture struct {
	*bufio.Writer
	from, to time.Time
	step     time.Duration // between two points of a line
}

// Draw writes the dashboard as SVG, with what a Prometheus answers for the time
// given. The drawing is ours and not Grafana's; the panels, their places and
// their queries are the dashboard's.
func (d Dashboard) Draw(w io.Writer, p *Prometheus, from, to time.Time, interval string) error {
	b := picture{bufio.NewWriter(w), from, to, max(time.Second, to.Sub(from)/400)}
	height := 0
	for _, panel := range d.Panels {
		height = max(height, (panel.GridPos.Y+panel.GridPos.H)*unit)
	}
	fmt.Fprintf(b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="DejaVu Sans, Verdana, sans-serif" font-size="11" fill="#2b2f36">`+"\n", 24*column, height+gap)
	fmt.Fprintf(b, `<rect width="%d" height="%d" fill="#f1f2f4"/>`+"\n", 24*column, height+gap)
	for _, panel := range d.Panels {
		lines, err := panel.ask(p, b, interval)
		if err != nil {
			return err
		}
		b.panel(panel, lines)
	}
	fmt.Fprintln(b, "</svg>")
	return b.Flush()
}

// line is one series with its name in the legend.
type line struct {
	name   string
	points []Point
}

// ask gives the panel's lines.
func (panel Panel) ask(p *Prometheus, b picture, interval string) (lines []line, err error) {
	for _, t := range panel.Targets {
		series, err := p.Range(t.Query(interval), b.from, b.to, b.step)
		if err != nil {
			return nil, fmt.Errorf("panel %q: %w", panel.Title, err)
		}
		for _, s := range series {
			name := t.LegendFormat
			for label, value := range s.Labels {
				name = strings.ReplaceAll(name, "{{"+label+"}}", value)
			}
			lines = append(lines, line{name, s.Points})
		}
	}
	return lines, nil
}

func (b picture) panel(panel Panel, lines []line) {
	g := panel.GridPos
	x, y, w, h := g.X*column+gap, g.Y*unit+gap, g.W*column-gap, g.H*unit-gap
	if panel.Type == "row" {
		b.text(x+8, y+19, "start", `font-size="14" font-weight="bold"`, panel.Title)
		return
	}
	fmt.Fprintf(b, `<rect x="%d" y="%d" width="%d" height="%d" rx="3" fill="#fff" stroke="#d9dce1"/>`+"\n", x, y, w, h)
	b.text(x+10, y+20, "start", `font-size="12" font-weight="bold"`, panel.Title)
	if panel.Type == "stat" {
		b.stat(panel, lines, x, y, w, h)
		return
	}
	b.graph(panel, lines, x+left, y+top, w-left-right, h-top-bottom)
	b.legend(lines, x+12, y+h-bottom+34, w-24)
}

func (b picture) text(x, y int, anchor, attributes, text string) {
	fmt.Fprintf(b, `<text x="%d" y="%d" text-anchor="%s" %s>%s</text>`+"\n", x, y, anchor, attributes, html.EscapeString(text))
}

// stat shows the last value of each line, beside each other.
func (b picture) stat(panel Panel, lines []line, x, y, w, h int) {
	for i, l := range lines {
		value := l.points[len(l.points)-1].Value
		text, colour := strconv.FormatFloat(value, 'g', 6, 64), ""
		for _, step := range panel.FieldConfig.Defaults.Thresholds.Steps {
			if step.Value == nil || value >= *step.Value {
				colour = step.Color
			}
		}
		for _, m := range panel.FieldConfig.Defaults.Mappings {
			if o, ok := m.Options[text]; ok {
				text, colour = o.Text, o.Color
			}
		}
		middle := x + w*(2*i+1)/(2*len(lines))
		b.text(middle, y+h/2+24, "middle", `font-size="34" fill="`+colours[colour]+`"`, text)
		b.text(middle, y+h-14, "middle", `fill="#5b6270"`, l.name)
	}
}

// graph draws axes and lines into a frame.
func (b picture) graph(panel Panel, lines []line, x, y, w, h int) {
	ticks := axis(panel, lines)
	most := ticks[len(ticks)-1]
	at := func(p Point) (float64, float64) {
		return float64(x) + float64(w)*(p.Time-seconds(b.from))/b.to.Sub(b.from).Seconds(), float64(y+h) - float64(h)*p.Value/most
	}
	for _, tick := range ticks {
		_, ty := at(Point{Value: tick})
		fmt.Fprintf(b, `<path d="M%d %.1fh%d" stroke="#e7e9ec"/>`+"\n", x, ty, w)
		b.text(x-6, int(ty)+4, "end", `fill="#5b6270"`, say(tick, panel.FieldConfig.Defaults.Unit))
	}
	for i := range 5 {
		t := b.from.Add(b.to.Sub(b.from) * time.Duration(i) / 4)
		anchor := []string{"start", "middle", "middle", "middle", "end"}[i]
		b.text(x+w*i/4, y+h+16, anchor, `fill="#5b6270"`, t.UTC().Format("15:04:05"))
	}
	for i, l := range lines {
		fmt.Fprintf(b, `<path fill="none" stroke="%s" stroke-width="1.6" stroke-linejoin="round" d="`, palette[i%len(palette)])
		step, pen := panel.FieldConfig.Defaults.Custom.LineInterpolation == "stepAfter", false
		for n, p := range l.points {
			px, py := at(p)
			gone := n > 0 && p.Time-l.points[n-1].Time > 1.5*b.step.Seconds()
			switch {
			case math.IsNaN(p.Value):
			case !pen || gone:
				fmt.Fprintf(b, "M%.1f %.1f", px, py)
			case step:
				fmt.Fprintf(b, "H%.1fV%.1f", px, py)
			default:
				fmt.Fprintf(b, "L%.1f %.1f", px, py)
			}
			pen = !math.IsNaN(p.Value)
		}
		fmt.Fprintln(b, `"/>`)
	}
}

// legend names the lines, as many as fit.
func (b picture) legend(lines []line, x, y, w int) {
	at, row := 0, 0
	for i, l := range lines {
		width := 22 + int(letter*float64(len(l.name)))
		if at+width > w && at > 0 {
			at, row = 0, row+1
		}
		if row > 2 {
			b.text(x+w, y+2*legendLine, "end", `fill="#5b6270"`, fmt.Sprintf("… %d more", len(lines)-i))
			return
		}
		fmt.Fprintf(b, `<rect x="%d" y="%d" width="10" height="3" fill="%s"/>`+"\n", x+at, y+row*legendLine-5, palette[i%len(palette)])
		b.text(x+at+14, y+row*legendLine, "start", "", l.name)
		at += width
	}
}

func seconds(t time.Time) float64 { return float64(t.UnixMilli()) / 1000 }

// axis gives the values at which there are lines across, from 0 to one that
// nothing exceeds.
func axis(panel Panel, lines []line) []float64 {
	most := 0.0
	for _, l := range lines {
		for _, p := range l.points {
			if !math.IsNaN(p.Value) {
				most = max(most, p.Value)
			}
		}
	}
	if limit := panel.FieldConfig.Defaults.Max; limit != nil {
		most = *limit
	}
	most = cmp.Or(most, 1)
	magnitude := math.Pow(10, math.Floor(math.Log10(most)))
	steps := []float64{.2, .25, .5, 1, 2, 2.5, 5}
	i := slices.IndexFunc(steps, func(s float64) bool { return most <= 5*s*magnitude })
	var ticks []float64
	for n := 0.0; n == 0 || ticks[len(ticks)-1] < most*(1-1e-9); n++ {
		ticks = append(ticks, n*steps[i]*magnitude)
	}
	return ticks
}

// say words a value with its unit.
func say(v float64, unit string) string {
	switch {
	case unit != "s" || v == 0:
		return strconv.FormatFloat(v, 'g', 3, 64)
	case v < 1:
		return strconv.FormatFloat(v*1000, 'g', 3, 64) + " ms"
	case v < 120:
		return strconv.FormatFloat(v, 'g', 3, 64) + " s"
	}
	return strconv.FormatFloat(v/60, 'g', 3, 64) + " min"
}
