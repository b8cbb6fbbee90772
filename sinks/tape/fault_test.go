// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package tape

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/vmstream/vmstream/internal/testenv"
	"github.com/vmstream/vmstream/sinks"
)

// nth fails with err at the n-th time that what happens, and ever after if for good.
func nth(what string, n int, err error, forGood bool) *faults {
	return &faults{fail: func(w string) error {
		if w != what {
			return nil
		}
		if n--; n == 0 || n < 0 && forGood {
			return err
		}
		return nil
	}}
}

// TestFaults has an error of the drive fail what is being written, keep what was there,
// and not keep anybody from writing again.
func TestFaults(t *testing.T) {
	for name, f := range map[string]*faults{
		"first write": nth("write", 1, errIO, false), "later write": nth("write", 3, errIO, false), "all writes": nth("write", 2, errIO, true),
		"trailer": nth("write", 5, errIO, false), "mark": nth(opMark.String(), 1, errIO, false), "last mark": nth(opMark.String(), 2, errIO, false),
		"marks": nth(opMark.String(), 1, errIO, true), "seek": nth(opSeek.String(), 1, errIO, true), "end at once": nth("write", 1, errEnd, true),
	} {
		t.Run(name, func(t *testing.T) {
			dir := virtualDir(t, "")
			s, _ := openTarget(t, "tape:"+dir+"?wait=0&buffer=1M")
			b := content(1_000_000, 1)
			mustPut(t, s, "a", b)
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			s, _ = openTarget(t, "tape:"+dir+"?wait=0&buffer=1M")
			s.faults = f
			if err := put(t, s, "b", b, sinks.CreateOptions{}); err == nil {
				t.Fatal("no error")
			}
			_ = s.Close() // what a drive says that does not write any more
			s, _ = openTarget(t, "tape:"+dir)
			if _, err := os.Stat(filepath.Join(dir, loadedName)); err != nil { // ejected for the next volume
				return
			}
			if got := keys(t, s); !slices.Equal(got, []string{"a 1000000"}) {
				t.Errorf("list has %q", got)
			}
			mustPut(t, s, "b", content(5000, 2))
			mustGet(t, s, "a", b)
			mustGet(t, s, "b", content(5000, 2))
		})
	}
}

func TestReadFaults(t *testing.T) {
	dir := virtualDir(t, "")
	s, _ := openTarget(t, "tape:"+dir+"?buffer=1M")
	mustPut(t, s, "a", content(1_000_000, 1))
	for name, f := range map[string]*faults{
		"read": nth("read", 2, errIO, false), "too long": nth("read", 3, errSmall, false), "rewind": nth(opRewind.String(), 1, errIO, false),
		"space": nth(opSpace.String(), 1, errIO, false), "tape gone": nth("read", 2, errNoTape, true),
	} {
		s.vol.drive.(*virtual).faults = f
		b, _, err := get(t, s, "a")
		if err == nil {
			t.Errorf("%s: %d bytes and no error", name, len(b))
		}
		mustGet(t, s, "a", content(1_000_000, 1)) // the drive is opened anew
	}
}

// TestLostBlocks has a drive tell of fewer blocks than it took.
func TestLostBlocks(t *testing.T) {
	dir := virtualDir(t, "")
	s, _ := openTarget(t, "tape:"+dir+"?buffer=1M")
	mustPut(t, s, "a", []byte("a"))
	s.vol.drive = &losing{s.vol.drive.(*virtual)}
	if err := put(t, s, "b", content(1_000_000, 1), sinks.CreateOptions{}); err == nil || !strings.Contains(err.Error(), "lost") {
		t.Errorf("got %v", err)
	}
	if got := keys(t, s); !slices.Equal(got, []string{"a 1"}) {
		t.Errorf("list has %q", got)
	}
}

// losing is a drive that says that a block is there which is not.
type losing struct{ *virtual }

func (l *losing) write(p []byte) (int, error) {
	if l.at > 6 {
		return len(p), nil
	}
	return l.virtual.write(p)
}

// TestPowerOff cuts a tape off anywhere. The streams before are there, and another can
// be written.
func TestPowerOff(t *testing.T) {
	dir := virtualDir(t, "")
	s, _ := openTarget(t, "tape:"+dir+"?block=8K&fixed=1")
	a, b := content(30_000, 1), content(50_000, 2)
	path := filepath.Join(dir, loadedName)
	size := func() int64 {
		st, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		return st.Size()
	}
	mustPut(t, s, "a", a)
	first := size()
	mustPut(t, s, "b", b)
	whole, err := os.ReadFile(path)
	if err = errors.Join(err, s.Close()); err != nil {
		t.Fatal(err)
	}
	for at := first; at < int64(len(whole)); at += 1009 {
		insert(t, dir, whole[:at])
		s, _ := openTarget(t, "tape:"+dir+"?buffer=1M")
		if got := keys(t, s); !slices.Equal(got, []string{"a 30000"}) {
			t.Fatalf("cut at %d: list has %q", at, got)
		}
		mustGet(t, s, "a", a)
		mustPut(t, s, "c", b)
		mustGet(t, s, "c", b)
		mustGet(t, s, "file=3", b)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestDamage has bits of a tape turn over: what comes back is what was stored or an
// error, but for the content itself, which the stream has digests for.
func TestDamage(t *testing.T) {
	dir := virtualDir(t, "")
	s, _ := openTarget(t, "tape:"+dir+"?block=4K")
	mustPut(t, s, "a", content(10_000, 1))
	path := filepath.Join(dir, loadedName)
	whole, err := os.ReadFile(path)
	if err = errors.Join(err, s.Close()); err != nil {
		t.Fatal(err)
	}
	for at := 0; at < len(whole); at += 23 {
		damaged := bytes.Clone(whole)
		damaged[at] ^= 1 << (at % 8)
		insert(t, dir, damaged)
		s, _ := openTarget(t, "tape:"+dir+"?wait=0&buffer=1M")
		if b, _, err := get(t, s, "a"); err == nil && len(b) != 10_000 {
			t.Errorf("byte %d: %d bytes come back", at, len(b))
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestBusy has a drive in use be refused to others.
func TestBusy(t *testing.T) {
	if !locks {
		t.Skip("virtual drives are not locked here")
	}
	dir := virtualDir(t, "")
	s, _ := openTarget(t, "tape:"+dir+"?buffer=1M")
	mustPut(t, s, "a", []byte("a"))
	other, _ := openTarget(t, "tape:"+dir)
	if _, err := other.Stat(t.Context(), "a"); !errors.Is(err, errBusy) {
		t.Errorf("got %v", err)
	}
}

func TestProtected(t *testing.T) {
	dir := virtualDir(t, "")
	s, _ := openTarget(t, "tape:"+dir+"?buffer=1M")
	mustPut(t, s, "a", []byte("a"))
	if err := errors.Join(s.Close(), os.WriteFile(filepath.Join(dir, configName), []byte(`{"write_protected":true}`), 0o600)); err != nil {
		t.Fatal(err)
	}
	s, _ = openTarget(t, "tape:"+dir)
	mustGet(t, s, "a", []byte("a"))
	if err := put(t, s, "b", nil, sinks.CreateOptions{}); !errors.Is(err, errProtected) {
		t.Errorf("got %v", err)
	}
}

// TestAlerts has what a drive warns of be told.
func TestAlerts(t *testing.T) {
	dir := virtualDir(t, "")
	tg, _ := sinks.ParseTarget("tape:" + dir)
	said := new(strings.Builder)
	opened, _, err := Driver().Open(t.Context(), tg, slog.New(slog.NewTextHandler(said, nil)))
	if err != nil {
		t.Fatal(err)
	}
	s := opened.(*sink)
	s.faults = &faults{alert: []string{"clean now"}}
	mustPut(t, s, "a", []byte("a"))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(said.String(), "TapeAlert: clean now") {
		t.Errorf("said %q", said)
	}
}

// TestReadByTar has a tape read by what is everywhere.
func TestReadByTar(t *testing.T) {
	tarProgram := testenv.Tool(t, "tar")
	for name, options := range map[string]string{"variable": "", "fixed": "?fixed=1&block=10K"} {
		t.Run(name, func(t *testing.T) {
			dir := virtualDir(t, "")
			s, _ := openTarget(t, "tape:"+dir+options)
			archive := t.TempDir()
			want := content(100_000, 1)
			if err := os.WriteFile(filepath.Join(archive, "disk"), want, 0o600); err != nil {
				t.Fatal(err)
			}
			b, err := exec.CommandContext(t.Context(), tarProgram, "-C", archive, "-b", "1", "-cf", "-", "disk").Output()
			if err != nil {
				t.Fatal(err)
			}
			mustPut(t, s, "a.tar", b)
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			out := t.TempDir()
			for _, file := range filesOf(t, filepath.Join(dir, loadedName)) {
				c := exec.CommandContext(t.Context(), tarProgram, "-C", out, "-xf", "-")
				c.Stdin = bytes.NewReader(file)
				if text, err := c.CombinedOutput(); err != nil || len(text) > 0 {
					t.Errorf("tar: %v\n%s", err, text)
				}
			}
			if got, err := os.ReadFile(filepath.Join(out, "disk")); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
			for _, name := range []string{labelName, trailerName, readmeName} {
				if _, err := os.Stat(filepath.Join(out, name)); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// filesOf returns the tape files of a cartridge.
func filesOf(t *testing.T, path string) [][]byte {
	t.Helper()
	f, err := openTap(path, false)
	if err != nil {
		t.Fatal(err)
	}
	defer f.f.Close()
	var all [][]byte
	var file []byte
	for _, b := range f.blocks {
		if b.length == tapMark {
			all, file = append(all, file), nil
			continue
		}
		p := make([]byte, b.length)
		if _, err := f.load(b, p); err != nil {
			t.Fatal(err)
		}
		file = append(file, p...)
	}
	return all
}

// TestUnreadableLabel has a tape be written over only if that is asked for.
func TestUnreadableLabel(t *testing.T) {
	dir := virtualDir(t, "")
	s, _ := openTarget(t, "tape:"+dir)
	mustPut(t, s, "a", []byte("a"))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s, _ = openTarget(t, "tape:"+dir)
	s.faults = nth("read", 1, errIO, false)
	if err := put(t, s, "b", nil, sinks.CreateOptions{}); !errors.Is(err, errIO) {
		t.Errorf("got %v", err)
	}
	mustGet(t, s, "a", []byte("a"))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s, _ = openTarget(t, "tape:"+dir+"?relabel=1")
	s.faults = nth("read", 1, errIO, false)
	mustPut(t, s, "b", []byte("b"))
	if got := keys(t, s); !slices.Equal(got, []string{"b 1"}) {
		t.Errorf("list has %q", got)
	}
}

// TestUnreadableTrailer has what was committed not be written over because it cannot be
// read now.
func TestUnreadableTrailer(t *testing.T) {
	dir := virtualDir(t, "")
	s, _ := openTarget(t, "tape:"+dir)
	mustPut(t, s, "a", []byte("a"))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for name, f := range map[string]*faults{
		"its block": nth("read", 3, errIO, false), "its filemark": nth("read", 4, errIO, false), // two reads are of the label
		"space to the end": nth(opEnd.String(), 1, errIO, false), "space back": nth(opBack.String(), 1, errIO, false),
	} {
		s, _ = openTarget(t, "tape:"+dir)
		s.faults = f
		if err := put(t, s, "b", nil, sinks.CreateOptions{}); !errors.Is(err, errIO) {
			t.Errorf("%s: got %v", name, err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	s, _ = openTarget(t, "tape:"+dir)
	mustGet(t, s, "a", []byte("a"))
}

// TestLeftBehind has what a killed process can leave, which Linux ends with a filemark,
// be written over.
func TestLeftBehind(t *testing.T) {
	dir := virtualDir(t, "")
	s, _ := openTarget(t, "tape:"+dir)
	mustPut(t, s, "a", []byte("a"))
	trailer := *s.vol.last
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, loadedName)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	trailer.File = 4
	text, err := trailer.encode()
	if err != nil {
		t.Fatal(err)
	}
	other := trailer
	other.Set = "of another set"
	foreign, err := other.encode()
	if err != nil {
		t.Fatal(err)
	}
	data := content(20_000, 1)
	for name, left := range map[string][][]byte{
		"nothing written":   {nil},
		"data":              {data, data, nil},
		"data, no filemark": {data},
		"a long block":      {content(2<<20, 2), nil},
		"part of a trailer": {data, nil, text[:600], nil},
		"a damaged trailer": {data, nil, bytes.Replace(text, []byte(`"set"`), []byte(`"sex"`), 1), nil},
		"an old trailer":    {data, nil, foreign, nil},
		"a label":           {data, nil, append([]byte(labelName+"\x00"), make([]byte, 1000)...), nil},
		"cut off":           {data, nil, text[:700], nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			insert(t, dir, append(bytes.Clone(whole), tapOf(t, left...)...))
			s, _ := openTarget(t, "tape:"+dir)
			if got := keys(t, s); !slices.Equal(got, []string{"a 1"}) {
				t.Errorf("list has %q", got)
			}
			mustPut(t, s, "b", data)
			mustGet(t, s, "b", data)
			mustGet(t, s, "a", []byte("a"))
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			if n := len(filesOf(t, path)); n != 5 {
				t.Errorf("there are %d files", n)
			}
		})
	}
}
