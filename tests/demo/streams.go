package main

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/penstock/penstock/tests/installation"
)

const question = "You are an engineer at a hydroelectric power station. " +
	"A penstock is the pipe that carries water from the reservoir down to the turbine, which drives the generator. " +
	"Explain to a visitor, slowly and with patience, how the water becomes light in their kitchen, which parts wear out first, " +
	"what the operators watch on their screens through the night, and why nobody likes sudden changes of pressure. " +
	"Speak about valves, about the surge tank, about the sound of the machines, and about the people who keep them running. "

func firstAnswer(ctx context.Context, s *stage) error {
	s.history = []installation.Message{{Role: "user", Content: strings.Repeat(question, 8)}}
	return s.ask(ctx, &s.first, "")
}

func secondAnswer(ctx context.Context, s *stage) error {
	s.history = append(s.history, installation.Message{Role: "user", Content: "And what happens at night?"})
	var second installation.Answer
	if err := s.ask(ctx, &second, "faster: "); err != nil {
		return err
	}
	if second.Cached == 0 || second.TTFT >= s.first.TTFT {
		return fmt.Errorf("the prefix was not used: %d tokens cached, first token after %v, before %v", second.Cached, second.TTFT, s.first.TTFT)
	}
	return nil
}

// ask sends the conversation, shows the answer as it streams, and adds it to the history.
func (s *stage) ask(ctx context.Context, a *installation.Answer, remark string) (err error) {
	last := s.history[len(s.history)-1].Content
	if len(last) > 60 {
		last = last[:60] + "..."
	}
	fmt.Printf("> %s\n", last)
	*a, err = s.client.Chat(ctx, "tiny", s.history, map[string]any{"max_tokens": 48, "ignore_eos": true}, os.Stdout)
	fmt.Println()
	if err != nil {
		return err
	}
	s.history = append(s.history, installation.Message{Role: "assistant", Content: a.Text})
	fmt.Printf("  (%sfirst token after %d ms; %d prompt tokens, %d of them from the cache)\n", remark, a.TTFT.Milliseconds(), a.Prompt, a.Cached)
	return nil
}

const streams = 6

func killOne(ctx context.Context, s *stage) error {
	fmt.Printf("%d answers, to compare with:", streams)
	want, err := s.parallel(ctx, nil)
	if err != nil {
		return err
	}
	fmt.Println(" done. The same again, and in the middle of it:")
	// The gateway spreads requests once every replica has told its load.
	if _, err := s.Until(ctx, "every replica tells its load", installation.Idle); err != nil {
		return err
	}
	middle := make(chan struct{})
	killed := make(chan error, 1)
	go func() {
		select {
		case <-middle:
			killed <- s.killEngine(ctx)
		case <-ctx.Done():
			killed <- ctx.Err()
		}
	}()
	got, err := s.parallel(ctx, middle)
	if err != nil {
		return err
	}
	if err := <-killed; err != nil {
		return err
	}
	for i := range got {
		if got[i].Text != want[i].Text {
			return fmt.Errorf("answer %d changed:\n%q\n%q", i, got[i].Text, want[i].Text)
		}
	}
	fmt.Printf("%d of %d answers complete, none altered\n", streams, streams)
	return s.findInterrupted(ctx, got)
}

// parallel runs all streams at once; middle is closed once each has said something.
func (s *stage) parallel(ctx context.Context, middle chan struct{}) ([]installation.Answer, error) {
	var wg sync.WaitGroup
	out, errs := make([]installation.Answer, streams), make([]error, streams)
	started := make(chan struct{}, streams)
	for i := range out {
		wg.Go(func() {
			prompt := []installation.Message{{Role: "user", Content: fmt.Sprintf("Story number %d, please. %s", i, question)}}
			fields := map[string]any{"max_tokens": 160, "ignore_eos": true}
			out[i], errs[i] = s.client.Chat(ctx, "tiny", prompt, fields, &firstWords{to: started})
		})
	}
	if middle != nil {
		for range out {
			select {
			case <-started:
			case <-ctx.Done():
			}
		}
		close(middle)
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// firstWords signals once, after some pieces of a stream.
type firstWords struct {
	to chan<- struct{}
	n  int
}

func (f *firstWords) Write(p []byte) (int, error) {
	if f.n++; f.n == 8 {
		f.to <- struct{}{}
	}
	return len(p), nil
}

// killEngine sends SIGKILL to the engine process of the replica that works on the most streams.
func (s *stage) killEngine(ctx context.Context) error {
	st, err := s.Status(ctx)
	if err != nil {
		return err
	}
	name, victim, most := "", 0, 0
	for _, r := range st.Deployments[0].Replicas {
		for _, p := range s.Find(r.Launch, "engine", "sim") {
			if n := streamsOf(ctx, p); n > most {
				name, victim, most = r.Name, p.PID, n
			}
		}
	}
	if victim == 0 {
		return fmt.Errorf("no engine works on a stream")
	}
	fmt.Printf("$ kill -9 %d        # the engine of %s, which works on %d of them\n", victim, name, most)
	return syscall.Kill(victim, syscall.SIGKILL)
}

// streamsOf asks an engine how many requests it works on; 0 where it does not say.
func streamsOf(ctx context.Context, p installation.Process) (n int) {
	at := slices.Index(p.Command, "--uds")
	if at < 0 || at+1 == len(p.Command) {
		return 0
	}
	client := &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", p.Command[at+1])
		},
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://engine/metrics", nil)
	if err != nil {
		return 0
	}
	resp, err := client.Do(req)
	if err != nil {
		return 0
	}
	defer resp.Body.Close()
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		if strings.HasPrefix(lines.Text(), "vllm:num_requests_running{") {
			_, value, _ := strings.Cut(lines.Text(), "} ")
			running, _ := strconv.ParseFloat(value, 64)
			return int(running)
		}
	}
	return 0
}

// findInterrupted looks for a stream that went on elsewhere. Gateways hand records over in batches, so it may take a
// moment.
func (s *stage) findInterrupted(ctx context.Context, got []installation.Answer) error {
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		for _, a := range got {
			text, err := s.Run(ctx, "why", "--json", a.ID)
			if err == nil && strings.Contains(text, `"outcome": "continued"`) {
				s.interrupted = a.ID
				return nil
			}
		}
	}
	return fmt.Errorf("no stream was continued: the kill came too late or too early")
}
