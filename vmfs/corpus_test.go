// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vmfs

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/internal/testenv"
)

// expected is what the maker of a volume says of it.
type expected struct {
	Generation, FSVersion, Label, FSUUID string
	BlockSize, LogicalSize               int64
	Devices                              []struct {
		File, Packed, SHA256 string
		Table                string
		Size                 int64
		PartitionOffset      int64
	}
	Heartbeats []struct {
		Slot       int
		InUse      bool
		Generation uint64
		Owner      string
		Stamp      uint64
		IP         string
	}
	SecondSample []patch
	Entries      []expectedEntry
}

type expectedEntry struct {
	Path, PathHex string `json:"-"`
	Type          string
	Size          int64
	SHA256        string
	SHA256Data    string `json:"sha256_data"`
	Runs          [][3]any
	Map           [][4]int64
	Target        string
	FD            string
	Generation    uint32
	Mode          string
	UID, GID      uint32
	Links         uint32
	MTime         int64
	Blocks        *uint64
	ZLA           uint32
	Entries       *int
	Probes        [][3]any
	NeedsDevices  []int
	RDM           *struct {
		IDType, IDLen, LUN      int
		Vendor, Model, Revision string
		IDHex                   string `json:"id_hex"`
	}
	Lock *struct {
		Mode    uint32
		Owner   string
		Token   uint64
		HBSlot  int `json:"hbSlot"`
		Verdict string
	}
	RawPath    string `json:"path"`
	RawPathHex string `json:"path_hex"`
}

// patch changes bytes of a device.
type patch struct {
	ID       string
	Device   any // index or name
	Offset   int64
	Old, New string
	Field    string
	Expect   string
	Paths    []string
}

// name is the path as io/fs has it.
func (e *expectedEntry) name() string {
	p := e.RawPath
	if e.RawPathHex != "" {
		b, _ := hex.DecodeString(e.RawPathHex)
		p = string(b)
	}
	if p = strings.Trim(p, "/"); p == "" {
		return "."
	}
	return p
}

// image is a device in memory that costs what it holds: what is not there is zero.
type image struct {
	size   int64
	chunks map[int64][]byte
}

const chunkBytes = 64 << 10

func (m *image) ReadAt(p []byte, off int64) (int, error) {
	done := 0
	for done < len(p) {
		at := off + int64(done)
		if at >= m.size {
			return done, io.EOF
		}
		in := at % chunkBytes
		n := int(min(int64(len(p)-done), chunkBytes-in, m.size-at))
		if c := m.chunks[at/chunkBytes]; c != nil {
			copy(p[done:done+n], c[in:])
		} else {
			clear(p[done : done+n])
		}
		done += n
	}
	return done, nil
}

func (m *image) write(p []byte, off int64) {
	for len(p) > 0 {
		in := off % chunkBytes
		n := int(min(int64(len(p)), chunkBytes-in))
		c := m.chunks[off/chunkBytes]
		if c == nil {
			c = make([]byte, chunkBytes)
			m.chunks[off/chunkBytes] = c
		}
		copy(c[in:], p[:n])
		p, off = p[n:], off+int64(n)
	}
}

// clone returns an image that can be changed.
func (m *image) clone() *image { return &image{m.size, maps.Clone(m.chunks)} }

// patched is a clone with other bytes at an offset.
func (m *image) patched(b []byte, off int64) *image {
	c := m.clone()
	for at := off / chunkBytes; at <= (off+int64(len(b))-1)/chunkBytes; at++ {
		if c.chunks[at] != nil {
			c.chunks[at] = slices.Clone(c.chunks[at])
		}
	}
	c.write(b, off)
	return c
}

func readImage(tb testing.TB, r io.Reader) *image {
	tb.Helper()
	m := &image{chunks: map[int64][]byte{}}
	b := make([]byte, chunkBytes)
	for {
		n, err := io.ReadFull(r, b)
		if !disk.IsZero(b[:n]) {
			m.write(b[:n], m.size)
		}
		m.size += int64(n)
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return m
		}
		if err != nil {
			tb.Fatal(err)
		}
	}
}

func unpackImage(tb testing.TB, name string) *image {
	tb.Helper()
	f, err := os.Open(testenv.Corpus(tb, "vmfs/synthetic/"+name))
	if err != nil {
		tb.Fatal(err)
	}
	defer f.Close()
	z, err := zstd.NewReader(f)
	if err != nil {
		tb.Fatal(err)
	}
	defer z.Close()
	return readImage(tb, z)
}

func loadExpected(tb testing.TB, name string) *expected {
	tb.Helper()
	b, err := os.ReadFile(testenv.Corpus(tb, "vmfs/synthetic/"+name+".expected.json"))
	if err != nil {
		tb.Fatal(err)
	}
	x := new(expected)
	if err := json.Unmarshal(b, x); err != nil {
		tb.Fatal(err)
	}
	return x
}

// devicesOf returns the devices of a volume in the order that it has.
func devicesOf(tb testing.TB, x *expected) []Device {
	tb.Helper()
	var all []Device
	for _, d := range x.Devices {
		m := unpackImage(tb, d.Packed)
		if m.size != d.Size {
			tb.Fatalf("%s: %d bytes, want %d", d.File, m.size, d.Size)
		}
		all = append(all, Device{Name: d.File, R: m, SizeBytes: m.size})
	}
	return all
}

func volumes(tb testing.TB) []string {
	tb.Helper()
	names, err := filepath.Glob(filepath.Join(testenv.Corpus(tb, "vmfs/synthetic"), "*.expected.json"))
	if err != nil || len(names) == 0 {
		tb.Fatalf("no volumes: %v", err)
	}
	for i := range names {
		names[i] = strings.TrimSuffix(filepath.Base(names[i]), ".expected.json")
	}
	return names
}

// TestVolumes reads everything of the volumes that an independent writer has made.
func TestVolumes(t *testing.T) {
	for _, name := range volumes(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			x := loadExpected(t, name)
			devices := devicesOf(t, x)
			order := make([]int, len(devices)) // that they are given in: the last one first
			given := make([]Device, len(devices))
			for i := range devices {
				order[i] = len(devices) - 1 - i
				given[order[i]] = devices[i]
			}
			f, err := Open(given, Options{})
			if err != nil {
				t.Fatal(err)
			}
			checkHeader(t, f, x)
			checkHeartbeats(t, f, x)
			c := &checker{f: f, x: x, order: order}
			for _, problem := range c.all() {
				t.Error(problem)
			}
			checkWalk(t, f, x)
		})
	}
}

func checkHeader(t *testing.T, f *FS, x *expected) {
	h := f.Header()
	if h.Generation.String() != x.Generation || fmt.Sprintf("%d.%d", h.MajorVersion, h.MinorVersion) != x.FSVersion || h.Label != x.Label ||
		h.UUID.String() != x.FSUUID || h.BlockBytes != x.BlockSize || f.SizeBytes() != x.LogicalSize {
		t.Errorf("header %+v", h)
	}
	for i, m := range f.Members() {
		if d := x.Devices[i]; m.Partition.OffsetBytes != d.PartitionOffset || m.Partition.Table != d.Table {
			t.Errorf("device %d: %+v, want %+v", i, m.Partition, d)
		}
	}
}

func checkHeartbeats(t *testing.T, f *FS, x *expected) {
	slots, err := f.Heartbeats()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range x.Heartbeats {
		i := slices.IndexFunc(slots, func(s Slot) bool { return s.Index == want.Slot })
		if i < 0 {
			t.Errorf("slot %d is not found", want.Slot)
			continue
		}
		if s := slots[i]; s.InUse != want.InUse || s.Generation != want.Generation || s.Owner.String() != want.Owner || s.StampUS != want.Stamp || s.IP != want.IP {
			t.Errorf("slot %+v, want %+v", s, want)
		}
	}
	inUse := 0
	for _, s := range slots {
		if s.InUse {
			inUse++
		}
	}
	for _, w := range x.Heartbeats {
		if w.InUse {
			inUse--
		}
	}
	if inUse != 0 {
		t.Errorf("slots in use: %+v", slots)
	}
}

// checker compares what a volume has with what it should have.
type checker struct {
	f     *FS
	x     *expected
	order []int // index given to Open of the device that the volume has n-th
	user  bool  // leave the content of system files out: they have what was changed
}

// all returns what differs, by path.
func (c *checker) all() map[string]error {
	problems := map[string]error{}
	for i := range c.x.Entries {
		e := &c.x.Entries[i]
		if err := c.entry(e); err != nil {
			problems[e.name()] = fmt.Errorf("%q: %w", e.name(), err)
		}
	}
	return problems
}

func (c *checker) entry(e *expectedEntry) error {
	fi, err := c.f.Lstat(e.name())
	if err != nil {
		return err
	}
	s := fi.Sys().(*Stat)
	if kind := s.Type.String(); kind != e.Type || fi.Size() != e.Size {
		return fmt.Errorf("is a %s of %d bytes, want %s of %d", kind, fi.Size(), e.Type, e.Size)
	}
	if e.FD != "" {
		var mode uint32
		_, _ = fmt.Sscanf(e.Mode, "%o", &mode)
		if got := fmt.Sprintf("0x%08x", s.Address); got != e.FD || s.Generation != e.Generation || s.Mode != mode || s.UID != e.UID || s.GID != e.GID ||
			s.Modified.Unix() != e.MTime || e.Blocks != nil && s.Units != *e.Blocks || e.Links != 0 && s.Links != e.Links {
			return fmt.Errorf("descriptor %+v, want %+v", s, e)
		}
	}
	if e.Lock != nil {
		if l := s.Lock; uint32(l.Mode) != e.Lock.Mode || l.Owner.String() != e.Lock.Owner || l.Token != e.Lock.Token {
			return fmt.Errorf("lock %+v, want %+v", l, e.Lock)
		}
		slots, err := c.f.Heartbeats()
		if err != nil {
			return err
		}
		_, held := Held(&s.Lock, slots)
		if want := strings.HasPrefix(e.Lock.Verdict, "held"); held != want {
			return fmt.Errorf("held: %v, want %q", held, e.Lock.Verdict)
		}
	}
	switch {
	case s.isDir():
		all, err := c.f.ReadDir(e.name())
		if err == nil && e.Entries != nil && len(all) != *e.Entries {
			err = fmt.Errorf("%d entries, want %d", len(all), *e.Entries)
		}
		return err
	case e.Type == "symlink":
		target, err := c.f.ReadLink(e.name())
		if err == nil && target != e.Target {
			err = fmt.Errorf("target %q, want %q", target, e.Target)
		}
		return err
	case e.Type == "rdm":
		return c.rdm(e, s)
	case e.Type == "system" && c.user:
		return nil
	}
	return c.content(e)
}

func (c *checker) rdm(e *expectedEntry, s *Stat) error {
	f, err := c.f.OpenFile(e.name())
	if err != nil {
		return err
	}
	if _, err := f.ReadAt(make([]byte, 512), 0); !errors.Is(err, disk.ErrUnsupported) {
		return err
	}
	if r := s.RDM; r.Hex() != e.RDM.IDHex || r.Vendor != e.RDM.Vendor || r.Model != e.RDM.Model || r.Revision != e.RDM.Revision || int(r.LUN) != e.RDM.LUN {
		return fmt.Errorf("RDM %+v, want %+v", r, e.RDM)
	}
	return nil
}

func (c *checker) content(e *expectedEntry) error {
	f, err := c.f.OpenFile(e.name())
	if err != nil {
		return err
	}
	if err := c.extents(f, e); err != nil {
		return err
	}
	const most = 3 << 30
	if e.SHA256 != "" && e.Size <= most {
		sum := sha256.New()
		if _, err := io.Copy(sum, io.NewSectionReader(f, 0, f.Size())); err != nil {
			return err
		}
		if got := hex.EncodeToString(sum.Sum(nil)); got != e.SHA256 {
			return fmt.Errorf("digest %s, want %s", got, e.SHA256)
		}
	}
	for _, p := range e.Probes {
		b := make([]byte, int(p[1].(float64)))
		if _, err := f.ReadAt(b, int64(p[0].(float64))); err != nil {
			return err
		}
		if got := sha256.Sum256(b); hex.EncodeToString(got[:]) != p[2].(string) {
			return fmt.Errorf("probe at %v differs", p[0])
		}
	}
	return f.Changed()
}

// extents compares runs and places.
func (c *checker) extents(f *File, e *expectedEntry) error {
	var runs [][3]any
	var places [][4]int64
	data := sha256.New()
	for x, err := range f.Extents(0, f.Size()) {
		if err != nil {
			return err
		}
		where := x.Where.String()
		if k := len(runs) - 1; k >= 0 && runs[k][2] == where {
			runs[k][1] = runs[k][1].(float64) + float64(x.Length)
		} else {
			runs = append(runs, [3]any{float64(x.Offset), float64(x.Length), where})
		}
		if x.Where != Stored {
			continue
		}
		places = append(places, [4]int64{x.Offset, x.Length, int64(slices.Index(c.order, x.Device)), x.At})
		if _, err := io.Copy(data, io.NewSectionReader(c.f.vol.devices[x.Device].R, x.At, x.Length)); err != nil {
			return err
		}
	}
	if e.Runs != nil && fmt.Sprint(runs) != fmt.Sprint(e.Runs) {
		return fmt.Errorf("runs %v, want %v", runs, e.Runs)
	}
	if e.Map != nil && !slices.Equal(places, joinPlaces(e.Map)) {
		return fmt.Errorf("places %v, want %v", places, e.Map)
	}
	if got := hex.EncodeToString(data.Sum(nil)); e.SHA256Data != "" && got != e.SHA256Data {
		return fmt.Errorf("digest of the data %s, want %s", got, e.SHA256Data)
	}
	return nil
}

// joinPlaces joins neighbours, as Extents does.
func joinPlaces(all [][4]int64) [][4]int64 {
	var out [][4]int64
	for _, p := range all {
		if k := len(out) - 1; k >= 0 && out[k][2] == p[2] && out[k][0]+out[k][1] == p[0] && out[k][3]+out[k][1] == p[3] {
			out[k][1] += p[1]
			continue
		}
		out = append(out, p)
	}
	return out
}

// checkWalk has io/fs find what is there, and nothing else.
func checkWalk(t *testing.T, f *FS, x *expected) {
	want := map[string]bool{}
	for i := range x.Entries {
		want[x.Entries[i].name()] = true
	}
	err := fs.WalkDir(f, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if !want[name] {
			t.Errorf("%q is not expected", name)
		}
		delete(want, name)
		return nil
	})
	if err != nil || len(want) > 0 {
		t.Errorf("%v; not found: %v", err, slices.Collect(maps.Keys(want)))
	}
}

// TestDamage changes one field of a volume at a time.
func TestDamage(t *testing.T) {
	for _, name := range []string{"a-v5-plain", "a-v6-plain"} {
		x := loadExpected(t, name)
		devices := devicesOf(t, x)
		b, err := os.ReadFile(testenv.Corpus(t, "vmfs/synthetic/"+name+".damage.json"))
		if err != nil {
			t.Fatal(err)
		}
		var all struct{ Patches []patch }
		if err := json.Unmarshal(b, &all); err != nil {
			t.Fatal(err)
		}
		for _, p := range all.Patches {
			t.Run(name+"/"+p.ID, func(t *testing.T) {
				t.Parallel()
				testDamage(t, x, devices[0], p)
			})
		}
	}
}

func testDamage(t *testing.T, x *expected, d Device, p patch) {
	old, _ := hex.DecodeString(p.Old)
	changed, _ := hex.DecodeString(p.New)
	m := d.R.(*image)
	got := make([]byte, len(old))
	if _, err := m.ReadAt(got, p.Offset); err != nil || !bytes.Equal(got, old) {
		t.Fatalf("there is %x at %d, want %x", got, p.Offset, old)
	}
	d.R = m.patched(changed, p.Offset)
	f, err := Open([]Device{d}, Options{})
	if err != nil {
		t.Log(err)
		if !strings.HasPrefix(p.Expect, "refuse") {
			t.Errorf("%s: %v", p.Expect, err)
		}
		return
	}
	problems := (&checker{f: f, x: x, order: []int{0}, user: true}).all()
	for _, err := range problems {
		t.Log(err)
		if !errors.Is(err, disk.ErrCorrupt) && !errors.Is(err, disk.ErrTruncated) && !errors.Is(err, disk.ErrUnsupported) && !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("not told as damage: %v", err)
		}
	}
	only := func(names []string, below bool) {
		for name := range problems {
			if !slices.ContainsFunc(names, func(n string) bool { return name == n || below && strings.HasPrefix(name, n+"/") }) {
				t.Errorf("%q fails too: %v", name, problems[name])
			}
		}
	}
	var paths []string
	for _, n := range p.Paths {
		paths = append(paths, strings.Trim(n, "/"))
	}
	switch p.Expect {
	case "refuse":
		t.Error("is not refused")
	case "refuse-or-errors":
		if len(problems) == 0 {
			t.Error("nothing is wrong")
		}
	case "refuse-or-same":
		only(nil, false)
	case "file-error":
		only(paths, false)
		if len(problems) != len(paths) {
			t.Errorf("%d of %d files fail", len(problems), len(paths))
		}
	case "same-or-file-error":
		only(paths, false)
	case "dir-error":
		only(paths, true)
		if len(problems) == 0 {
			t.Error("nothing is wrong")
		}
	case "same":
		only(nil, false)
	default:
		t.Errorf("%s is not known", p.Expect)
	}
	walkDamaged(t, f)
}

// walkDamaged has a walk come to its end.
func walkDamaged(t *testing.T, f *FS) {
	n := 0
	_ = fs.WalkDir(f, ".", func(name string, _ fs.DirEntry, _ error) error {
		if n++; n > 100_000 || strings.Contains(path.Base(name), "..") && name != ".." {
			t.Fatalf("the walk comes to %q", name)
		}
		return nil
	})
}

// TestSecondSample has a host beat between two looks.
func TestSecondSample(t *testing.T) {
	for _, name := range volumes(t) {
		x := loadExpected(t, name)
		if len(x.SecondSample) == 0 {
			continue
		}
		devices := devicesOf(t, x)
		before, err := Open(devices, Options{})
		if err != nil {
			t.Fatal(err)
		}
		first, err := before.Heartbeats()
		if err != nil {
			t.Fatal(err)
		}
		if live := Live(first, first); len(live) != 0 {
			t.Errorf("%s: without a beat %+v live", name, live)
		}
		p := x.SecondSample[0]
		changed, _ := hex.DecodeString(p.New)
		d := &devices[int(p.Device.(float64))]
		d.R = d.R.(*image).patched(changed, p.Offset)
		after, err := Open(devices, Options{})
		if err != nil {
			t.Fatal(err)
		}
		second, err := after.Heartbeats()
		if err != nil {
			t.Fatal(err)
		}
		if live := Live(first, second); len(live) != 1 {
			t.Errorf("%s: %+v live", name, live)
		}
	}
}
