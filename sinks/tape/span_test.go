// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package tape

import (
	"bytes"
	"context"
	"errors"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vmstream/vmstream/sinks"
)

const smallTapes = `{"capacity_bytes": 1048576, "early_warning_bytes": 163840}`

func spanTarget(dir, options string) string {
	return "tape:" + dir + "?wait=0&change=" + url.QueryEscape(shelf) + options
}

// TestSpan stores streams on more volumes than one, and reads them with the last, the
// first, or one in between in the drive.
func TestSpan(t *testing.T) {
	for name, options := range map[string]string{
		"variable": "&block=64K", "fixed": "&block=64K&fixed=1", "small": "&block=512", "small fixed": "&block=512&fixed=1",
		"by capacity": "&block=32K&capacity=1M",
	} {
		t.Run(name, func(t *testing.T) {
			config := smallTapes
			if strings.Contains(options, "capacity") {
				config = ""
			}
			dir := virtualDir(t, config)
			s, _ := openTarget(t, spanTarget(dir, options))
			first, second, third := content(300_000, 1), content(2_500_001, 2), content(1000, 3)
			mustPut(t, s, "first", first)
			mustPut(t, s, "second", second)
			mustPut(t, s, "third", third)
			if got, want := keys(t, s), []string{"first 300000", "second 2500001", "third 1000"}; !slices.Equal(got, want) {
				t.Errorf("list has %q, want %q", got, want)
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			n := cartridges(t, dir)
			if n != 3 && n != 4 {
				t.Fatalf("%d volumes", n)
			}
			for v := 1; v <= n; v++ {
				load(t, dir, v)
				s, _ := openTarget(t, spanTarget(dir, options))
				if v == 1 {
					mustGet(t, s, "file=3", second)
				}
				if v == n {
					mustGet(t, s, "id-second"[3:], second)
					mustGet(t, s, "third", third)
				}
				mustGet(t, s, "first", first)
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// TestSpanNeverCommitted has a stream that was given up on its second volume read from
// the first.
func TestSpanNeverCommitted(t *testing.T) {
	dir := virtualDir(t, smallTapes)
	s, _ := openTarget(t, spanTarget(dir, "&buffer=1M"))
	mustPut(t, s, "a", content(1000, 1))
	w, err := s.Create(t.Context(), "b", sinks.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(content(3_000_000, 2)); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Commit(t.Context(), sinks.End{SizeBytes: 5}); !errors.Is(err, sinks.ErrShort) {
		t.Fatalf("commit: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if n := cartridges(t, dir); n < 2 {
		t.Fatalf("%d volume", n)
	}
	load(t, dir, 1)
	s, _ = openTarget(t, spanTarget(dir, ""))
	if got := keys(t, s); !slices.Equal(got, []string{"a 1000"}) {
		t.Errorf("list has %q", got)
	}
	// How far it came depends: the volume that is missing may be blank, or not there.
	if got, _, err := get(t, s, "b"); err == nil || !bytes.HasPrefix(content(3_000_000, 2), got) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	mustPutOn(t, dir)
}

// mustPutOn goes on behind a stream that has no end: with the next volume.
func mustPutOn(t *testing.T, dir string) {
	t.Helper()
	load(t, dir, 1)
	s, _ := openTarget(t, spanTarget(dir, ""))
	mustPut(t, s, "c", content(2000, 3))
	if got := s.vol.label.Volume; got != 2 {
		t.Errorf("it is on volume %d", got)
	}
	if got := keys(t, s); !slices.Equal(got, []string{"a 1000", "c 2000"}) {
		t.Errorf("list has %q", got)
	}
}

// TestWaits has a person change the tape.
func TestWaits(t *testing.T) {
	dir := virtualDir(t, smallTapes)
	s, _ := openTarget(t, "tape:"+dir)
	s.poll = 5 * time.Millisecond
	done := make(chan struct{})
	go func() { // who puts the first one in again, and then a blank one
		defer close(done)
		for n := 1; n <= 2; n++ {
			ejected := filepath.Join(dir, "ejected-1.tap")
			if n == 2 {
				ejected = filepath.Join(dir, "ejected-2.tap")
			}
			for t.Context().Err() == nil {
				if _, err := os.Stat(ejected); err == nil {
					break
				}
				time.Sleep(5 * time.Millisecond)
			}
			b, err := os.ReadFile(ejected)
			if n == 2 {
				b = nil
			}
			tmp := filepath.Join(dir, "new")
			if err = errors.Join(err, os.WriteFile(tmp, b, 0o600), os.Rename(tmp, filepath.Join(dir, loadedName))); err != nil {
				t.Error(err)
			}
		}
	}()
	b := content(1_500_000, 1)
	mustPut(t, s, "a", b)
	<-done
	if got := s.vol.label.Volume; got != 2 {
		t.Errorf("it is on volume %d", got)
	}
}

// TestNobodyChanges has a stream fail that does not fit, and leave what was there.
func TestNobodyChanges(t *testing.T) {
	dir := virtualDir(t, smallTapes)
	for _, target := range []string{"tape:" + dir + "?wait=0", "tape:" + dir + "?wait=20ms", "tape:" + dir + "?change=exit+3"} {
		insert(t, dir, nil)
		s, _ := openTarget(t, target)
		s.poll = time.Millisecond
		mustPut(t, s, "a", []byte("small"))
		if err := put(t, s, "b", content(2_000_000, 1), sinks.CreateOptions{}); err == nil || !strings.Contains(err.Error(), "volume 2") {
			t.Errorf("%s: %v", target, err)
		}
	}
}

// TestGivenUp has an end of the context end the waiting for a tape.
func TestGivenUp(t *testing.T) {
	dir := virtualDir(t, smallTapes)
	s, _ := openTarget(t, "tape:"+dir)
	ctx, cancel := context.WithCancelCause(t.Context())
	w, err := s.Create(ctx, "a", sinks.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(content(2_000_000, 1)); err != nil {
		t.Fatal(err)
	}
	cause := errors.New("enough")
	time.AfterFunc(20*time.Millisecond, func() { cancel(cause) })
	if _, err := w.Commit(t.Context(), sinks.End{SizeBytes: 2_000_000}); !errors.Is(err, cause) {
		t.Errorf("commit: %v", err)
	}
	if err := w.Abort(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestRefusesTapes has nothing written over.
func TestRefusesTapes(t *testing.T) {
	other := virtualDir(t, "")
	s, _ := openTarget(t, "tape:"+other+"?label=other")
	mustPut(t, s, "x", []byte("of another set"))
	labelled, err := os.ReadFile(filepath.Join(other, loadedName))
	if err != nil {
		t.Fatal(err)
	}
	foreign := tapOf(t, []byte("a tape of somebody else's, which begins with this block"), nil, []byte("more"), nil)
	for name, next := range map[string][]byte{"another set": labelled, "foreign": foreign} {
		dir := virtualDir(t, smallTapes)
		if err := os.WriteFile(filepath.Join(dir, "next"), next, 0o600); err != nil {
			t.Fatal(err)
		}
		change := url.QueryEscape("test -e $VMSTREAM_TAPE/next && mv $VMSTREAM_TAPE/next $VMSTREAM_TAPE/loaded.tap")
		s, _ := openTarget(t, "tape:"+dir+"?wait=0&change="+change)
		if err := put(t, s, "b", content(2_000_000, 1), sinks.CreateOptions{}); err == nil {
			t.Errorf("%s: it is written over", name)
		}
		got, err := os.ReadFile(filepath.Join(dir, "ejected-2.tap"))
		if err != nil || !bytes.Equal(got, next) {
			t.Errorf("%s: it has changed: %v", name, err)
		}
	}
	dir := virtualDir(t, "")
	insert(t, dir, foreign)
	s, _ = openTarget(t, "tape:"+dir)
	if err := put(t, s, "b", []byte("b"), sinks.CreateOptions{}); !errors.Is(err, errForeign) {
		t.Errorf("a foreign tape in the drive: %v", err)
	}
	mustGet(t, s, "file=1", []byte("more"))
	s.relabel = true
	mustPut(t, s, "b", []byte("b"))
	mustPut(t, s, "c", []byte("c"))
	if got := keys(t, s); !slices.Equal(got, []string{"b 1", "c 1"}) {
		t.Errorf("list has %q", got)
	}
}

// tapOf is a cartridge with these blocks; nil is a filemark.
func tapOf(t testing.TB, blocks ...[]byte) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "tape")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := openTap(path, true)
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range blocks {
		if err := f.append(b); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.f.Close(); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestSpanReplacing has a stream keep its name until the one that is to replace it, on
// two volumes, has its end.
func TestSpanReplacing(t *testing.T) {
	for _, whole := range []bool{false, true} {
		dir := virtualDir(t, smallTapes)
		s, _ := openTarget(t, spanTarget(dir, "&buffer=1M"))
		first, second := content(1000, 1), content(3_000_000, 2)
		mustPut(t, s, "a", first)
		w, err := s.Create(t.Context(), "a", sinks.CreateOptions{Overwrite: true})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(second); err != nil {
			t.Fatal(err)
		}
		want := first
		if whole {
			want = second
			_, err = w.Commit(t.Context(), sinks.End{SizeBytes: int64(len(second))})
		}
		if err = errors.Join(err, w.Abort(t.Context())); err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		n := cartridges(t, dir)
		if !whole {
			n = 1
		}
		load(t, dir, n)
		s, _ = openTarget(t, spanTarget(dir, ""))
		mustGet(t, s, "a", want)
	}
}

// TestChangesProtected has a tape that cannot be written to be taken out again.
func TestChangesProtected(t *testing.T) {
	dir := virtualDir(t, smallTapes)
	change := `cd $VMSTREAM_TAPE; : >loaded.tap; if test -e tried; then cp small drive.json; else cp protected drive.json; fi; : >tried`
	for name, text := range map[string]string{"small": smallTapes, "protected": `{"write_protected": true}`} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s, _ := openTarget(t, "tape:"+dir+"?wait=0&change="+url.QueryEscape(change))
	b := content(1_500_000, 1)
	mustPut(t, s, "a", b)
	if got := s.vol.label.Volume; got != 2 {
		t.Errorf("it is on volume %d", got)
	}
	if _, err := os.Stat(filepath.Join(dir, "ejected-2.tap")); err != nil {
		t.Error(err)
	}
}

// TestWaitingHeedsContexts has somebody who only looks not wait for somebody who waits
// for a tape.
func TestWaitingHeedsContexts(t *testing.T) {
	s, _ := openTarget(t, "tape:"+t.TempDir()) // without a tape
	ctx, cancel := context.WithCancelCause(t.Context())
	waiting := make(chan error)
	go func() {
		_, err := s.Stat(ctx, "a")
		waiting <- err
	}()
	short, stop := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer stop()
	if _, err := s.Stat(short, "b"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	cause := errors.New("enough")
	cancel(cause)
	if err := <-waiting; !errors.Is(err, cause) {
		t.Errorf("got %v", err)
	}
}
