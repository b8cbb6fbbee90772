// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package pipeline

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"testing"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/stream"
	"github.com/vmstream/vmstream/vm/snapshot"
)

// oneRun says that everything but one range is unchanged.
type oneRun struct{ changed disk.Run }

func (o oneRun) Runs(off, n int64) iter.Seq2[disk.Run, error] {
	return func(yield func(disk.Run, error) bool) {
		for _, r := range []disk.Run{{Length: o.changed.Offset, Kind: disk.Parent}, o.changed, {Offset: o.changed.End(), Length: 1 << 40, Kind: disk.Parent}} {
			from, end := max(r.Offset, off), min(r.End(), off+n)
			if from < end && !yield(disk.Run{Offset: from, Length: end - from, Kind: r.Kind}, nil) {
				return
			}
		}
	}
}

// Who took a snapshot tells the changes, before anything else is asked; digests
// are what is left. A change that was not told does not pass the audit.
func TestChangesSince(t *testing.T) {
	path := filepath.Join(t.TempDir(), "d.raw")
	b := bytes.Repeat([]byte("content "), 512<<10)
	write := func() {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write()
	src, err := OpenSource(t.Context(), path, SourceOptions{})
	if err != nil {
		t.Fatal(err)
	}
	src.Track(stream.MinTrackBytes)
	var full bytes.Buffer
	res, err := Backup(t.Context(), &full, src, streamOptions("none"))
	if err = errors.Join(err, src.Close()); err != nil {
		t.Fatal(err)
	}
	copy(b[1<<20:], "CHANGED")
	write()
	for name, c := range map[string]struct {
		told           disk.Run
		provider, lies bool
	}{
		"told":            {told: disk.Run{Offset: 1 << 20, Length: 512, Kind: disk.Data}, provider: true},
		"told wrong":      {told: disk.Run{Offset: 2 << 20, Length: 512, Kind: disk.Data}, provider: true, lies: true},
		"it cannot tell":  {provider: true},
		"nobody can tell": {},
	} {
		src, err := OpenSource(t.Context(), path, SourceOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if c.provider {
			src.Snapshot.Disks[0].Changes = func(string) (snapshot.Runs, error) {
				if c.told.Length == 0 {
					return nil, fmt.Errorf("it was not there: %w", disk.ErrMismatch)
				}
				return oneRun{c.told}, nil
			}
		}
		if err := src.Since(res.Index, SinceOptions{TrackBytes: TrackParent}); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if src.Disks[0].Compare == (c.told.Length != 0) {
			t.Errorf("%s: compares: %v", name, src.Disks[0].Compare)
		}
		_, err = stream.Audit(t.Context(), src.Disks, res.Index, stream.AuditOptions{ID: "x", Share: 1})
		if errors.Is(err, stream.ErrUntrusted) != c.lies {
			t.Errorf("%s: audit: %v", name, err)
		}
		if !c.lies {
			checkIncrement(t, src, res, full.Bytes(), b)
		}
		if err := src.Close(); err != nil {
			t.Error(err)
		}
	}
}

// checkIncrement writes an increment and restores it behind the full backup.
func checkIncrement(t *testing.T, src *Source, parent *stream.Result, full, want []byte) {
	t.Helper()
	joined := bytes.NewBuffer(bytes.Clone(full))
	o := streamOptions("none")
	o.ID, o.Parent = "increment", parent.Opening
	inc, err := Backup(context.Background(), joined, src, o)
	if err != nil {
		t.Fatal(err)
	}
	if n := inc.Index.Disks[0].StoredBytes; n != 64<<10 {
		t.Errorf("%d bytes are stored for one grain", n)
	}
	to := filepath.Join(t.TempDir(), "out")
	if _, err := Restore(t.Context(), joined, RestoreOptions{To: to}); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(to); err != nil || !bytes.Equal(got, want) {
		t.Errorf("another disk was restored: %v", err)
	}
}

// The disks of an increment stand in the order of the backup before, in whatever
// order the machine has them now.
func TestSinceOrder(t *testing.T) {
	parent := &stream.Index{Opening: &stream.Opening{ID: "full"}}
	for _, key := range []string{"b", "gone", "a", "c"} {
		parent.Opening.Disks = append(parent.Opening.Disks, stream.DiskRecord{Key: key})
	}
	for now, want := range map[string]string{
		"abc": "bac", "cab": "bac", "bac": "bac", "anbc": "bnac", "ncanb": "nbanc", "nm": "nm", "": "",
	} {
		src := &Source{Snapshot: &snapshot.Snapshot{}}
		for _, key := range now {
			src.Disks = append(src.Disks, stream.Disk{Record: stream.DiskRecord{Key: string(key)}})
			src.Snapshot.Disks = append(src.Snapshot.Disks, snapshot.Disk{Key: string(key)})
		}
		src.orderAs(parent.Opening)
		got, snaps := "", ""
		for i := range src.Disks {
			got, snaps = got+src.Disks[i].Record.Key, snaps+src.Snapshot.Disks[i].Key
		}
		if got != want || snaps != want {
			t.Errorf("%s: disks %s, of the snapshot %s, want %s", now, got, snaps, want)
		}
	}
}
