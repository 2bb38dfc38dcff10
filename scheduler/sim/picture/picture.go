// Package picture draws what a run of the simulator looked like over time: times to first tokens, requests, the cache and the replicas,
// each in a panel of its own, as SVG or PNG. It knows nothing but sim.Result, and its only caller is `penstock simulate`.
package picture

import (
	"fmt"
	"image/color"
	"io"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgimg"
	"gonum.org/v1/plot/vg/vgsvg"

	"github.com/penstock/penstock/scheduler/sim"
)

const (
	width  = 9 * vg.Inch
	height = 10 * vg.Inch
)

// Colours that the colour-blind can tell apart (Okabe and Ito, 2008).
var colours = []color.Color{
	color.RGBA{0, 114, 178, 255}, color.RGBA{213, 94, 0, 255}, color.RGBA{0, 158, 115, 255}, color.RGBA{204, 121, 167, 255},
}

// line is one line of a panel.
type line struct {
	name string
	of   func(sim.Point) float64
}

// panel is one diagram over time.
type panel struct {
	title string
	lines []line
}

var panels = []panel{
	{"time to the first token (s)", []line{
		{"p50", func(p sim.Point) float64 { return p.TTFT.P50.Seconds() }}, {"p90", func(p sim.Point) float64 { return p.TTFT.P90.Seconds() }},
	}},
	{"requests", []line{
		{"running", func(p sim.Point) float64 { return float64(p.Running) }},
		{"waiting in engines", func(p sim.Point) float64 { return float64(p.Waiting) }},
		{"held at the gateway", func(p sim.Point) float64 { return float64(p.Held) }},
	}},
	{"share (%)", []line{
		{"KV cache in use", func(p sim.Point) float64 { return 100 * p.KVUse }}, {"prompt tokens from caches", func(p sim.Point) float64 { return 100 * p.Hit }},
	}},
	{"replicas", []line{{"serving", func(p sim.Point) float64 { return float64(p.Replicas) }}}},
}

// Draw writes a run's picture; format is svg or png. The run must have been sampled.
func Draw(w io.Writer, format, title string, r sim.Result) error {
	if len(r.Series) < 2 {
		return fmt.Errorf("draw %q: the run has %d points in time, a picture needs two", title, len(r.Series))
	}
	var canvas interface {
		vg.CanvasSizer
		io.WriterTo
	}
	switch format {
	case "svg":
		canvas = vgsvg.New(width, height)
	case "png":
		canvas = vgimg.PngCanvas{Canvas: vgimg.NewWith(vgimg.UseWH(width, height), vgimg.UseDPI(110))}
	default:
		return fmt.Errorf("draw %q: the format %q is neither svg nor png", title, format)
	}
	plots := make([][]*plot.Plot, len(panels))
	for i, p := range panels {
		one, err := p.draw(r.Series)
		if err != nil {
			return fmt.Errorf("draw %q: %w", title, err)
		}
		if i == 0 {
			one.Title.Text = title + "\n"
		}
		if i == len(panels)-1 {
			one.X.Label.Text = "minutes"
		}
		plots[i] = []*plot.Plot{one}
	}
	page := draw.New(canvas)
	tiles := draw.Tiles{Rows: len(plots), Cols: 1, PadTop: 6, PadBottom: 6, PadLeft: 6, PadRight: 12, PadY: 10}
	for i, row := range plot.Align(plots, tiles, page) {
		plots[i][0].Draw(row[0])
	}
	_, err := canvas.WriteTo(w)
	return err
}

func (p panel) draw(series []sim.Point) (*plot.Plot, error) {
	out := plot.New()
	out.Y.Label.Text = p.title
	out.Y.Min = 0
	out.Legend.Top = true
	out.Legend.Left = true
	out.Add(plotter.NewGrid())
	for i, l := range p.lines {
		points := make(plotter.XYs, len(series))
		for k, at := range series {
			points[k] = plotter.XY{X: at.At.Minutes(), Y: l.of(at)}
		}
		drawn, err := plotter.NewLine(points)
		if err != nil {
			return nil, err
		}
		drawn.Color = colours[i%len(colours)]
		drawn.Width = vg.Points(1.2)
		out.Add(drawn)
		out.Legend.Add(l.name, drawn)
	}
	out.Y.Max = max(out.Y.Max*1.4, 1e-3)
	return out, nil
}
