// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package plugins

import (
	"io"
	"os"
	"os/exec"
	"testing"

	"github.com/vmstream/vmstream/internal/testenv"
	"github.com/vmstream/vmstream/sinks"
)

// Data as the program writes it to a sink.
const (
	benchWriteBytes  = 256 << 10
	benchObjectBytes = 1 << 30
)

// BenchmarkWrite writes an object into a sink that drops it, through the pipe and in
// messages, and into a pipe to cat, which is what stdout is.
func BenchmarkWrite(b *testing.B) {
	for _, name := range []string{"pipe", "messages"} {
		b.Run(name, func(b *testing.B) {
			s, key := openSink(b, testHost(b), "bad:is-good")
			if name == "messages" {
				s.p.in, s.p.out = nil, nil
			}
			benchWrite(b, func() (io.Writer, func() error, error) {
				w, err := s.Create(b.Context(), key, sinks.CreateOptions{})
				return w, func() error {
					_, err := w.Commit(b.Context(), sinks.End{SizeBytes: benchObjectBytes})
					return err
				}, err
			})
		})
	}
	b.Run("cat", func(b *testing.B) {
		cat := testenv.Tool(b, "cat")
		benchWrite(b, func() (io.Writer, func() error, error) {
			r, w, err := os.Pipe()
			if err != nil {
				return nil, nil, err
			}
			widen(w)
			c := exec.CommandContext(b.Context(), cat)
			c.Stdin = r
			if err := c.Start(); err != nil {
				return nil, nil, err
			}
			_ = r.Close() // the child has it
			return w, func() error {
				if err := w.Close(); err != nil {
					return err
				}
				return c.Wait()
			}, nil
		})
	})
}

func benchWrite(b *testing.B, begin func() (io.Writer, func() error, error)) {
	p := make([]byte, benchWriteBytes)
	b.SetBytes(benchObjectBytes)
	for b.Loop() {
		w, end, err := begin()
		for n := 0; err == nil && n < benchObjectBytes; n += len(p) {
			_, err = w.Write(p)
		}
		if err == nil {
			err = end()
		}
		if err != nil {
			b.Fatal(err)
		}
	}
}
