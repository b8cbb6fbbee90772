// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vmfs

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

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
	FreeBlocks   int64
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
