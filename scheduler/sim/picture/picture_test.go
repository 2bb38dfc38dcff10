package picture

import (
	"bytes"
	"image/png"
	"strings"
	"testing"
	"time"

	"github.com/penstock/penstock/scheduler/sim"
)

func TestDraw(t *testing.T) {
	c := sim.DefaultConfig()
	c.Sample = time.Second
	chat := sim.DefaultChat
	chat.Length = time.Minute
	r, err := sim.Run(c, chat.Trace(1), nil)
	if err != nil {
		t.Fatal(err)
	}
	var svg, pixels bytes.Buffer
	if err := Draw(&svg, "svg", "a chat", r); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"<svg", "a chat", "time to the first token", "minutes", "KV cache in use"} {
		if !strings.Contains(svg.String(), want) {
			t.Errorf("the SVG lacks %q", want)
		}
	}
	if err := Draw(&pixels, "png", "a chat", r); err != nil {
		t.Fatal(err)
	}
	if image, err := png.Decode(&pixels); err != nil || image.Bounds().Dx() < 500 {
		t.Errorf("%v, %v", image.Bounds(), err)
	}
	if Draw(&svg, "gif", "a chat", r) == nil || Draw(&svg, "svg", "nothing", sim.Result{}) == nil {
		t.Error("a picture of what cannot be drawn")
	}
}
