package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

type message struct {
	Role    string `json:"role"`
	Content string `json:"content"`
}

// answer is one finished stream.
type answer struct {
	text           string
	id             string
	ttft           time.Duration
	prompt, cached int
}

// chat streams one greedy answer; each piece goes to show as it comes.
func (s *stage) chat(ctx context.Context, messages []message, maxTokens int, show io.Writer) (answer, error) {
	body, err := json.Marshal(map[string]any{
		"model": "tiny", "messages": messages, "stream": true, "temperature": 0, "max_tokens": maxTokens, "ignore_eos": true,
		"stream_options": map[string]any{"include_usage": true},
	})
	if err != nil {
		return answer{}, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.url+"/chat/completions", bytes.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	req.Header.Set("Authorization", "Bearer "+s.key)
	req.Header.Set("Content-Type", "application/json")
	begin := time.Now()
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 4096))
		return answer{}, fmt.Errorf("the gateway answered %s: %s", resp.Status, text)
	}
	a := answer{id: resp.Header.Get("X-Request-Id")}
	return a, a.read(resp.Body, begin, show)
}

// read takes the events of a stream, which must end with [DONE].
func (a *answer) read(r io.Reader, begin time.Time, show io.Writer) error {
	in := bufio.NewScanner(r)
	in.Buffer(nil, 1<<20)
	for in.Scan() {
		data, ok := strings.CutPrefix(in.Text(), "data: ")
		if !ok {
			continue
		}
		if data == "[DONE]" {
			return nil
		}
		var e struct {
			Error   *struct{ Message string }
			Choices []struct{ Delta struct{ Content string } }
			Usage   *struct {
				PromptTokens        int `json:"prompt_tokens"`
				PromptTokensDetails struct {
					CachedTokens int `json:"cached_tokens"`
				} `json:"prompt_tokens_details"`
			}
		}
		if err := json.Unmarshal([]byte(data), &e); err != nil {
			return fmt.Errorf("stream of request %s: %w", a.id, err)
		}
		if e.Error != nil {
			return fmt.Errorf("stream of request %s: %s", a.id, e.Error.Message)
		}
		if e.Usage != nil {
			a.prompt, a.cached = e.Usage.PromptTokens, e.Usage.PromptTokensDetails.CachedTokens
		}
		for _, c := range e.Choices {
			if c.Delta.Content == "" {
				continue
			}
			if a.ttft == 0 {
				a.ttft = time.Since(begin)
			}
			a.text += c.Delta.Content
			fmt.Fprint(show, c.Delta.Content)
		}
	}
	return fmt.Errorf("stream of request %s ended without [DONE] after %d characters: %w", a.id, len(a.text), io.ErrUnexpectedEOF)
}

const question = "You are an engineer at a hydroelectric power station. " +
	"A penstock is the pipe that carries water from the reservoir down to the turbine, which drives the generator. " +
	"Explain to a visitor, slowly and with patience, how the water becomes light in their kitchen, which parts wear out first, " +
	"what the operators watch on their screens through the night, and why nobody likes sudden changes of pressure. " +
	"Speak about valves, about the surge tank, about the sound of the machines, and about the people who keep them running. "

func firstAnswer(ctx context.Context, s *stage) error {
	s.history = []message{{"user", strings.Repeat(question, 3)}}
	return s.ask(ctx, &s.first, "")
}

func secondAnswer(ctx context.Context, s *stage) error {
	s.history = append(s.history, message{"user", "And what happens at night?"})
	var second answer
	if err := s.ask(ctx, &second, "faster: "); err != nil {
		return err
	}
	if second.cached == 0 || second.ttft >= s.first.ttft {
		return fmt.Errorf("the prefix was not used: %d tokens cached, first token after %v, before %v", second.cached, second.ttft, s.first.ttft)
	}
	return nil
}

// ask sends the conversation, shows the answer as it streams, and adds it to the history.
func (s *stage) ask(ctx context.Context, a *answer, remark string) (err error) {
	last := s.history[len(s.history)-1].Content
	if len(last) > 60 {
		last = last[:60] + "..."
	}
	fmt.Printf("> %s\n", last)
	*a, err = s.chat(ctx, s.history, 48, os.Stdout)
	fmt.Println()
	if err != nil {
		return err
	}
	s.history = append(s.history, message{"assistant", a.text})
	fmt.Printf("  (%sfirst token after %d ms; %d prompt tokens, %d of them from the cache)\n", remark, a.ttft.Milliseconds(), a.prompt, a.cached)
	return nil
}

func scaleUp(ctx context.Context, s *stage) error {
	if err := s.show(ctx, nil, "scale", "demo", "mixed=3"); err != nil {
		return err
	}
	return s.show(ctx, nil, "wait", "--timeout", "60s", "demo")
}

const streams = 6

func killOne(ctx context.Context, s *stage) error {
	want := make([]answer, streams)
	fmt.Printf("%d answers, to compare with:", streams)
	if err := s.parallel(ctx, want, nil); err != nil {
		return err
	}
	fmt.Println(" done. The same again, and in the middle of it:")
	got := make([]answer, streams)
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
	if err := s.parallel(ctx, got, middle); err != nil {
		return err
	}
	if err := <-killed; err != nil {
		return err
	}
	for i := range got {
		if got[i].text != want[i].text {
			return fmt.Errorf("answer %d changed:\n%q\n%q", i, got[i].text, want[i].text)
		}
	}
	if err := s.findInterrupted(ctx, got); err != nil {
		return err
	}
	fmt.Printf("%d of %d answers complete, none altered\n", streams, streams)
	return nil
}

// parallel runs all streams at once; middle is closed once each has said something.
func (s *stage) parallel(ctx context.Context, out []answer, middle chan struct{}) error {
	var wg sync.WaitGroup
	errs := make([]error, len(out))
	started := make(chan struct{}, 1<<16)
	for i := range out {
		wg.Go(func() {
			prompt := []message{{"user", fmt.Sprintf("Story number %d, please. %s", i, question)}}
			out[i], errs[i] = s.chat(ctx, prompt, 96, &firstWord{to: started})
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
			return err
		}
	}
	return nil
}

// firstWord signals after some pieces of a stream.
type firstWord struct {
	to chan<- struct{}
	n  int
}

func (f *firstWord) Write(p []byte) (int, error) {
	if f.n++; f.n == 8 {
		f.to <- struct{}{}
	}
	return len(p), nil
}

// killEngine sends SIGKILL to the engine process of one replica that is busy.
func (s *stage) killEngine(ctx context.Context) error {
	replicas, err := s.replicas(ctx)
	if err != nil {
		return err
	}
	for _, name := range []string{"mixed/1", "mixed/0", "mixed/2"} {
		launch := replicas[name]
		for _, pid := range s.processes() {
			cmdline, _ := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline"))
			env, _ := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "environ"))
			if bytes.Contains(cmdline, []byte("engine\x00sim")) && bytes.Contains(env, []byte("PENSTOCK_LAUNCH="+launch+"\x00")) {
				fmt.Printf("$ kill -9 %d        # the engine of %s\n", pid, name)
				return syscall.Kill(pid, syscall.SIGKILL)
			}
		}
	}
	return fmt.Errorf("no engine process found")
}

// findInterrupted looks for a stream that went on elsewhere.
func (s *stage) findInterrupted(ctx context.Context, got []answer) error {
	deadline := time.Now().Add(10 * time.Second)
	for time.Now().Before(deadline) {
		for _, a := range got {
			text, err := s.quiet(ctx, "why", "--json", a.id)
			if err == nil && strings.Contains(text, `"outcome": "continued"`) {
				s.interrupted = a.id
				return nil
			}
		}
		time.Sleep(100 * time.Millisecond)
	}
	return fmt.Errorf("no stream was continued: the kill came too late or too early")
}
