// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package pipeline

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/internal/wholefile"
	"github.com/vmstream/vmstream/stream"
	"github.com/vmstream/vmstream/vmdk"
)

// Backup software hands the streams of a chain out one at a time, each to a
// program of its own that does not know if another follows. So what has been
// restored is a whole VM after each of them, and a note beside it says which
// backup that is. An increment is put over it as over the stream that it would
// be: nothing has to be kept for it, and it is checked like any chain.

// RestoreNext restores a stream to o.Dir. An increment is restored over what the
// call before has restored there, for which there is as much room needed again;
// that must be the backup that the increment is one on, and must not have been
// changed since. If it is not, errors.Is finds disk.ErrMismatch, and nothing
// has been changed.
func RestoreNext(ctx context.Context, r io.Reader, o RestoreOptions) (*Restored, error) {
	opening, in, err := peekOpening(ctx, r)
	if err != nil {
		return nil, err
	}
	n := &note{dir: o.Dir, name: opening.VMName()}
	ins := []io.Reader{in}
	if opening.Depth > 0 {
		if err := n.load(opening); err != nil {
			return nil, err
		}
		base, stop := n.stream(ctx, o.Read)
		defer stop()
		ins, o.Force = []io.Reader{base, in}, true
	} else if !o.Force {
		o.Force = n.replaceable(opening, &o)
	}
	done, err := RestoreChain(ctx, ins, o)
	if err != nil {
		return nil, err
	}
	return done, n.replace(done)
}

const (
	noteFormat   = "vmstream-restored/1"
	maxNoteBytes = 64 << 20 // as an opening record, with the names of all files
)

// note says which backup a restored VM is.
type note struct {
	dir, name string

	Format  string          `json:"format"`
	Opening *stream.Opening `json:"opening"`
	Disks   []RestoredDisk  `json:"disks"`
	Files   []notedFile     `json:"files"`
}

type notedFile struct {
	Path      string `json:"path"`
	SizeBytes int64  `json:"size_bytes"`
	ModTime   int64  `json:"mtime_ns"`
}

func (n *note) path() string { return filepath.Join(n.dir, ".vmstream-restored-"+n.name+".json") }

// replaceable reports if a full backup replaces what is there.
func (n *note) replaceable(opening *stream.Opening, o *RestoreOptions) bool {
	if o.ForceFor != nil && o.ForceFor(opening, filepath.Join(n.dir, n.name)) {
		return true
	}
	return o.Follows && n.read(opening) == nil && n.unchanged(opening) == nil
}

// load reads the note and makes sure that it is of the parent of o, and that what it is
// about is there still.
func (n *note) load(o *stream.Opening) error {
	if err := n.read(o); err != nil {
		return err
	}
	if n.Opening.ID != o.ParentID {
		return fmt.Errorf("backup %s is an increment on %s, what is in %s is %s: %w", o.ID, o.ParentID, n.dir, n.Opening.ID, disk.ErrMismatch)
	}
	return n.unchanged(o)
}

// read reads the note.
func (n *note) read(o *stream.Opening) error {
	f, err := disk.OpenRegular(n.path())
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("backup %s is an increment on %s, which has not been restored to %s before it: %w", o.ID, o.ParentID, n.dir, disk.ErrMismatch)
	}
	if err != nil {
		return err
	}
	defer f.Close() // only read
	if err := json.NewDecoder(io.LimitReader(f, maxNoteBytes)).Decode(n); err != nil {
		return fmt.Errorf("%s: %w: %w", n.path(), err, disk.ErrCorrupt)
	}
	if n.Format != noteFormat || n.Opening == nil {
		return fmt.Errorf("%s: not what a restore has written: %w", n.path(), disk.ErrUnsupported)
	}
	return n.inside()
}

// unchanged makes sure that the files are as they were restored.
func (n *note) unchanged(o *stream.Opening) error {
	for _, was := range n.Files {
		if now, err := lookAt(was.Path); err != nil || now != was {
			return fmt.Errorf("%s has changed since backup %s was restored to it, so backup %s cannot be put over it: %w", was.Path, n.Opening.ID, o.ID, disk.ErrMismatch)
		}
	}
	return nil
}

// inside makes sure that the note is about files of the VM: they are read, and
// removed when an increment does not have them.
func (n *note) inside() error {
	home := filepath.Join(n.dir, n.name)
	paths := make([]string, 0, len(n.Disks)+len(n.Files))
	for i := range n.Disks {
		paths = append(paths, n.Disks[i].Path)
	}
	for i := range n.Files {
		paths = append(paths, n.Files[i].Path)
	}
	for _, p := range paths {
		if filepath.Dir(p) != home || !stream.ValidName(filepath.Base(p)) {
			return fmt.Errorf("%s: %s is not in %s: %w", n.path(), p, home, disk.ErrCorrupt)
		}
	}
	return nil
}

func lookAt(path string) (notedFile, error) {
	st, err := os.Lstat(path)
	if err != nil {
		return notedFile{}, err
	}
	return notedFile{Path: path, SizeBytes: st.Size(), ModTime: st.ModTime().UnixNano()}, nil
}

// stream returns what was restored as the full backup that it stands for, with
// the id that increments on it name.
func (n *note) stream(ctx context.Context, ro stream.ReadOptions) (io.Reader, func()) {
	ctx, cancel := context.WithCancel(ctx)
	r, w := io.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.CloseWithError(n.write(ctx, w, ro)) // nil is the end
	}()
	return r, func() {
		cancel()
		_ = r.Close() // whoever writes to it stops
		<-done
	}
}

func (n *note) write(ctx context.Context, w io.Writer, ro stream.ReadOptions) (err error) {
	var disks []stream.Disk
	defer func() {
		for i := range disks {
			err = errors.Join(err, disks[i].Image.Close())
		}
	}()
	for _, rec := range n.Opening.Disks {
		at := slices.IndexFunc(n.Disks, func(d RestoredDisk) bool { return d.Key == rec.Key })
		if at < 0 {
			continue // the chain says so if it is needed
		}
		format := vmdk.SourceVMDK
		if n.Disks[at].Raw {
			format = vmdk.SourceRaw
		}
		im, err := vmdk.Open(n.Disks[at].Path, vmdk.Options{Format: format})
		if err != nil {
			return fmt.Errorf("disk %s as it was restored: %w", rec.Key, err)
		}
		rec.TrackBytes, rec.ParentFile = 0, ""
		disks = append(disks, stream.Disk{Record: rec, Image: im})
	}
	o := n.Opening
	_, err = stream.Write(ctx, w, disks, nil, stream.Options{
		ID: o.ID, Created: o.Created, Tool: o.Tool, Name: n.name, Consistency: o.Consistency, ExtentBytes: o.ExtentBytes,
		Workers: ro.Workers, MemoryBytes: ro.MemoryBytes,
	})
	return err
}

// replace notes what has been restored, and removes files of before that it
// does not have.
func (n *note) replace(done *Restored) error {
	next := note{dir: n.dir, name: n.name, Format: noteFormat, Opening: done.Result.Opening, Disks: done.Disks}
	for _, path := range done.Paths {
		f, err := lookAt(path)
		if err != nil {
			return err
		}
		next.Files = append(next.Files, f)
	}
	for _, old := range n.Files {
		if !slices.Contains(done.Paths, old.Path) {
			if err := os.Remove(old.Path); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	b, err := json.Marshal(&next)
	if err != nil {
		return err
	}
	return wholefile.Write(next.path(), b, 0o600)
}
