// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package plugins

import (
	"bytes"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"unicode"

	"google.golang.org/protobuf/proto"

	"github.com/vmstream/vmstream/plugins/internal/sinkv1"
	"github.com/vmstream/vmstream/sinks"
)

// FuzzFrameReader reads what is not known to be frames: it ends, with an error that
// says what is wrong, and has no more than there is.
func FuzzFrameReader(f *testing.F) {
	f.Add([]byte{0, 0, 0, 1, 'a', 0, 0, 0, 0}, 3)
	f.Add([]byte{0, 0, 0, 0, 0, 0, 0, 0}, 1)
	f.Add([]byte{0, 0x10, 0, 1, 1}, 1)
	f.Add([]byte{0xff, 0xff, 0xff, 0xff}, 1)
	f.Add([]byte{0, 0, 0, 9, 'a'}, 100)
	f.Fuzz(func(t *testing.T, b []byte, size int) {
		if size < 1 || size > 1<<16 {
			return
		}
		r := newFrameReader(bytes.NewReader(b))
		p, total := make([]byte, size), 0
		for {
			n, err := r.Read(p)
			if total += n; total > len(b) {
				t.Fatalf("%d bytes of %d", total, len(b))
			}
			if errors.Is(err, io.EOF) { // the next transfer
				continue
			}
			if err != nil {
				if !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, errFrame) {
					t.Fatal(err)
				}
				return
			}
			if n == 0 {
				t.Fatal("nothing, and no error")
			}
		}
	})
}

// stuttering is a pipe with deadlines: every so many bytes a write is interrupted.
type stuttering struct {
	bytes.Buffer
	every, left int
}

func (s *stuttering) Write(p []byte) (int, error) {
	if len(p) <= s.left {
		s.left -= len(p)
		return s.Buffer.Write(p)
	}
	n, _ := s.Buffer.Write(p[:s.left])
	s.left = s.every
	return n, os.ErrDeadlineExceeded
}

// FuzzFrames writes transfers, some of which are given up at an interruption: the
// others come out as they went in.
func FuzzFrames(f *testing.F) {
	f.Add([]byte("one"), []byte("two"), 2)
	f.Add(bytes.Repeat([]byte("x"), smallBytes+1), []byte{}, 5)
	f.Add([]byte{}, bytes.Repeat([]byte("y"), 70_000), 4000)
	f.Fuzz(func(t *testing.T, first, second []byte, every int) {
		if every < 1 || every > 1<<20 || len(first) > 1<<20 || len(second) > 1<<20 || len(first)/every > 1000 {
			return // or too slow
		}
		pipe := &stuttering{every: every, left: every}
		w := &frameWriter{w: pipe}
		written, err := w.Write(first)
		if err == nil && written != len(first) || written > len(first) {
			t.Fatalf("%d of %d bytes written, and no error", written, len(first))
		}
		for end := w.end(); end != nil; end = w.end() { // as endLane does
			if !errors.Is(end, os.ErrDeadlineExceeded) {
				t.Fatal(end)
			}
		}
		pipe.left = 1 << 30
		if _, err := w.Write(second); err != nil {
			t.Fatal(err)
		}
		if err := w.end(); err != nil {
			t.Fatal(err)
		}
		r := newFrameReader(&pipe.Buffer)
		got, rerr := io.ReadAll(r)
		if rerr != nil || len(got) < written || !bytes.Equal(got[:written], first[:written]) {
			t.Fatalf("the first transfer: %d bytes, %v; %d were written, %v", len(got), rerr, written, err)
		}
		if err == nil && len(got) != written {
			t.Fatalf("%d bytes more than written", len(got)-written)
		}
		if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, second) {
			t.Fatalf("the second transfer: %d bytes of %d, %v", len(got), len(second), err)
		}
	})
}

// FuzzAnswers takes what a plugin says of itself and of objects: what is believed keeps
// to the bounds.
func FuzzAnswers(f *testing.F) {
	add := func(m proto.Message) {
		b, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	add(descriptionMessage(badDriver{}.Describe()))
	add(descriptionMessage(sinks.Description{Scheme: "bad", Environment: []string{"VMSTREAM_KEY", "*", "A*"}}))
	add(&sinkv1.Info{Key: []byte("key"), SizeBytes: -2, ModifiedUnixNanos: -1, Version: "\x1b[31m"})
	add(&sinkv1.Failure{Message: "no\nsuch\x1b[31m", Kinds: []sinkv1.Kind{1, 2, 99, -1}})
	add(&sinkv1.Orphan{Key: []byte("key"), Id: []byte{0}, SizeBytes: 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		var d sinkv1.DescribeResponse
		if proto.Unmarshal(b, &d) == nil {
			if got, err := description(&d, "bad", nil); err == nil {
				for _, name := range got.Environment {
					if strings.HasPrefix(name, "VMSTREAM_") && !strings.HasPrefix(name, "VMSTREAM_BAD_") || strings.HasPrefix("VMSTREAM_", strings.TrimSuffix(name, "*")) {
						t.Fatalf("it gets %q", name)
					}
				}
				clean(t, got.Summary+got.Form)
			} else if !errors.Is(err, ErrPlugin) {
				t.Fatal(err)
			}
		}
		var i sinkv1.Info
		if proto.Unmarshal(b, &i) == nil {
			if got, err := info(&i); err == nil && (got.SizeBytes < -1 || len(got.Key) > maxKeyBytes) {
				t.Fatalf("%+v", got)
			}
		}
		var o sinkv1.Orphan
		if proto.Unmarshal(b, &o) == nil {
			if got, err := orphan(&o); err == nil && (got.SizeBytes < -1 || len(got.Key)+len(got.ID) > 2*maxKeyBytes) {
				t.Fatalf("%+v", got)
			}
		}
		var fail sinkv1.Failure
		if proto.Unmarshal(b, &fail) == nil {
			clean(t, failed(&fail).Error())
		}
	})
}

// clean fails the test if a text is not for a terminal.
func clean(t *testing.T, s string) {
	t.Helper()
	if strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) || len(s) > 4*maxTextBytes {
		t.Fatalf("%q", s)
	}
}

// FuzzChecksums takes lists of checksums apart.
func FuzzChecksums(f *testing.F) {
	sum := strings.Repeat("0a", 32)
	for _, s := range []string{"", "one=" + sum, "one=" + sum + ",two=" + sum, "one=", "=,= ", "one=" + sum + " one=" + sum} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		sums, err := ParseChecksums(s)
		for name, sum := range sums {
			if err != nil || !nameForm.MatchString(name) || !isSum(sum) {
				t.Fatalf("%q: %q, %v", name, sum, err)
			}
		}
	})
}
