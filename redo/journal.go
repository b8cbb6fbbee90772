// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package redo

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/vmdk"
)

// Operation is a change of a chain that has several steps.
type Operation string

// The operations that keep a journal, which is called like the child with
// ".vmstream-" and the operation behind.
const (
	OpAdd     Operation = "add"
	OpCommit  Operation = "commit"
	OpDiscard Operation = "discard"
)

// The phases of an operation. What a phase does can be done again.
const (
	phaseCopy   = "copy"   // commit: the parent takes what the child has
	phaseSwitch = "switch" // names and content ids change
	phaseRemove = "remove" // the child's files go
)

// journal is what an operation is doing, in a file beside the child.
type journal struct {
	Version   int       `json:"vmstream_redo"`
	Operation Operation `json:"operation"`
	Phase     string    `json:"phase"`
	ESX2      bool      `json:"esx2,omitempty"`

	Child      *identity `json:"child"`
	Parent     *identity `json:"parent"`
	Grandchild *identity `json:"grandchild,omitempty"` // of a commit below the top
	Files      []string  `json:"files,omitempty"`      // extents of the child, in its directory

	CID           string   `json:"cid,omitempty"` // of the parent at the end
	LongContentID string   `json:"long_content_id,omitempty"`
	Redundant     []string `json:"redundant,omitempty"` // extents of the parent with two copies of their tables
	Text          string   `json:"text,omitempty"`      // the parent's descriptor at the end

	path string
}

const (
	journalVersion  = 1
	maxJournalBytes = 4 << 20
)

// identity tells a file from another that has taken its name.
type identity struct {
	Path      string    `json:"path"` // relative to the journal
	SizeBytes int64     `json:"size_bytes"`
	ModTime   time.Time `json:"mod_time"`
	CID       string    `json:"cid,omitempty"`
}

func identify(dir string, l *level) (*identity, error) {
	st, err := os.Stat(l.path)
	if err != nil {
		return nil, err
	}
	rel, err := filepath.Rel(dir, l.path)
	if err != nil {
		return nil, err
	}
	id := &identity{Path: rel, SizeBytes: st.Size(), ModTime: st.ModTime().UTC()}
	if l.desc != nil {
		id.CID = cidString(l.desc.Descriptor.CID)
	}
	return id, nil
}

// same reports if path is the file that was identified, unchanged.
func (id *identity) same(path string) bool {
	st, err := os.Stat(path)
	return err == nil && st.Size() == id.SizeBytes && st.ModTime().Equal(id.ModTime)
}

func newJournal(op Operation, phase string, c *chain, child, parent, grandchild *level) (*journal, error) {
	j := &journal{Version: journalVersion, Operation: op, Phase: phase, ESX2: c.esx2, path: journalPath(child.path, op)}
	dir := filepath.Dir(child.path)
	var err error
	if j.Child, err = identify(dir, child); err != nil {
		return nil, err
	}
	if j.Parent, err = identify(dir, parent); err != nil {
		return nil, err
	}
	if grandchild != nil {
		j.Grandchild, err = identify(dir, grandchild)
	}
	return j, err
}

func journalPath(child string, op Operation) string { return child + ".vmstream-" + string(op) }

// abs returns the absolute path of a file in the journal.
func (j *journal) abs(rel string) string { return filepath.Join(filepath.Dir(j.path), rel) }

// rel is the inverse of abs, for files that can be told so.
func (j *journal) rel(path string) string {
	if rel, err := filepath.Rel(filepath.Dir(j.path), path); err == nil {
		return rel
	}
	return path
}

func (j *journal) child() string  { return j.abs(j.Child.Path) }
func (j *journal) parent() string { return j.abs(j.Parent.Path) }

func (j *journal) grandchild() string {
	if j.Grandchild == nil {
		return ""
	}
	return j.abs(j.Grandchild.Path)
}

// put writes the journal; the phase counts from then on.
func (j *journal) put(fsys FS, phase string) error {
	j.Phase = phase
	b, err := json.MarshalIndent(j, "", "  ")
	if err != nil {
		return err
	}
	return writeFile(fsys, j.path, j.parent(), func(f File) error { return writeAll(f, append(b, '\n')) })
}

// end removes the journal: everything it speaks about is durable.
func (j *journal) end(fsys FS) error {
	if err := removeIfThere(fsys, j.path+tmpSuffix); err != nil {
		return err
	}
	if err := removeIfThere(fsys, j.path); err != nil {
		return err
	}
	return fsys.SyncDir(filepath.Dir(j.path))
}

func (j *journal) fail(kind error, format string, args ...any) error {
	return &disk.FormatError{
		File: j.path, Format: "journal", Offset: -1, Err: kind,
		Detail: fmt.Sprintf(format, args...) + "; if it does not belong to this disk, remove it",
	}
}

// loadJournal reads a journal.
func loadJournal(path string, op Operation, o *Options) (*journal, error) {
	f, err := disk.OpenRegular(path)
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(io.LimitReader(f, maxJournalBytes+1))
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	return parseJournal(path, b, op, o)
}

// parseJournal decides about what is removed and written to, so that a journal
// is checked like everything else that somebody may have put there.
func parseJournal(path string, b []byte, op Operation, o *Options) (*journal, error) {
	j := &journal{path: path}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(j); err != nil || len(b) > maxJournalBytes {
		return nil, j.fail(disk.ErrCorrupt, "it cannot be read: %v", err)
	}
	return j, j.validate(op, o)
}

func (j *journal) validate(op Operation, o *Options) error {
	phases := map[Operation][]string{
		OpAdd: {phaseSwitch}, OpCommit: {phaseCopy, phaseSwitch, phaseRemove}, OpDiscard: {phaseRemove},
	}
	switch {
	case j.Version != journalVersion:
		return j.fail(disk.ErrUnsupported, "version %d, known is %d", j.Version, journalVersion)
	case j.Operation != op || !slices.Contains(phases[op], j.Phase):
		return j.fail(disk.ErrCorrupt, "operation %q in phase %q", j.Operation, j.Phase)
	case j.Child == nil || j.Parent == nil || op == OpAdd && len(j.Files) != 1:
		return j.fail(disk.ErrCorrupt, "child, parent or files are missing")
	case journalPath(j.child(), op) != j.path || j.Child.Path != filepath.Base(j.Child.Path):
		return j.fail(disk.ErrCorrupt, "it is called after another child than it has, %q", j.Child.Path)
	}
	local := []string{j.Parent.Path}
	if j.Grandchild != nil {
		local = append(local, j.Grandchild.Path)
	}
	for _, p := range local {
		if !o.AllowOutside && !filepath.IsLocal(p) {
			return j.fail(disk.ErrOutside, "%q lies outside the directory; --allow-outside permits it", p)
		}
	}
	for _, f := range j.Files {
		if f == "" || f != filepath.Base(f) || f == filepath.Base(j.Parent.Path) {
			return j.fail(disk.ErrCorrupt, "%q is not the name of an extent of the child", f)
		}
	}
	return nil
}

// Pending is an operation on a disk that has not ended.
type Pending struct {
	Operation Operation
	Journal   string // path
	Child     string
	Parent    string
}

// FindPending returns the operation on the disk at path that has not ended, nil
// if there is none. path need not exist any more.
func FindPending(path string, o Options) (*Pending, error) {
	o.fill()
	j, err := journalOf(path, &o)
	if j == nil || err != nil {
		return nil, err
	}
	return j.pending(), nil
}

func (j *journal) pending() *Pending {
	return &Pending{Operation: j.Operation, Journal: j.path, Child: j.child(), Parent: j.parent()}
}

// findJournal returns the journal that speaks of the file at path, nil if there is none.
func findJournal(path string, o *Options) (*journal, error) {
	dir := filepath.Dir(path)
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		for _, op := range []Operation{OpAdd, OpCommit, OpDiscard} {
			if !strings.HasSuffix(e.Name(), ".vmstream-"+string(op)) {
				continue
			}
			j, err := loadJournal(filepath.Join(dir, e.Name()), op, o)
			if err != nil {
				return nil, err
			}
			if slices.Contains([]string{j.child(), j.parent(), j.grandchild()}, path) {
				return j, nil
			}
		}
	}
	return nil, nil
}

// journalOf finds the journal of the disk at path, which need not exist any more.
func journalOf(path string, o *Options) (*journal, error) {
	dir, err := realPath(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	real := filepath.Join(dir, filepath.Base(path))
	if p, err := realPath(path); err == nil {
		real = p
	}
	j, err := findJournal(real, o)
	if j != nil || err != nil || !exists(real) {
		return j, err
	}
	c, err := findChain(real, o)
	if err != nil {
		return nil, nil // for the caller to find
	}
	for _, l := range c.levels {
		if j, err = findJournal(l.path, o); j != nil || err != nil {
			return j, err
		}
	}
	return nil, nil
}

// begin takes the lock for an operation and finds the journal of one of its
// kind that has not ended.
func begin(path string, op Operation, o *Options) (j *journal, unlock func(), err error) {
	if o.Tree != nil {
		return nil, nil, fmt.Errorf("%s: redo logs are changed where the operating system has the files: %w", path, disk.ErrUnsupported)
	}
	place := path
	if real, err := realPath(path); err == nil {
		place = real
	}
	if unlock, err = lockDir(filepath.Dir(place)); err != nil {
		return nil, nil, err
	}
	if j, err = journalOf(path, o); err == nil {
		err = j.only(op)
	}
	if err != nil {
		unlock()
		return nil, nil, err
	}
	return j, unlock, nil
}

// only refuses an operation while another one has not ended.
func (j *journal) only(op Operation) error {
	if j == nil || j.Operation == op {
		return nil
	}
	return &disk.FormatError{
		File: j.path, Format: "journal", Offset: -1, Err: disk.ErrInUse,
		Detail: fmt.Sprintf("a %s of %s has not ended: run vmstream redo %[1]s again", j.Operation, filepath.Base(j.child())),
	}
}

// removeFiles removes the extents of a child. Only a sparse extent is removed,
// whatever a journal says.
func removeFiles(fsys FS, dir string, names []string) error {
	for _, name := range names {
		path := filepath.Join(dir, name)
		if !exists(path) {
			continue
		}
		s, err := extentState(path)
		if err != nil {
			return err
		}
		if s.Type == "" {
			return &disk.FormatError{File: path, Offset: -1, Err: disk.ErrMismatch, Detail: "it was to be removed, but it is no sparse extent"}
		}
		if err := fsys.Remove(path); err != nil {
			return err
		}
	}
	return fsys.SyncDir(dir)
}

// extentFiles returns the extents of a level with a descriptor by their names
// in its directory; not its own file, which has an embedded descriptor.
func extentFiles(l *level) ([]string, error) {
	var names []string
	for _, e := range l.desc.Descriptor.Extents {
		if l.desc.Embedded || e.Type == vmdk.ExtentZero {
			continue
		}
		if e.Name != filepath.Base(e.Name) || strings.ContainsAny(e.Name, `\`) {
			return nil, chainError(l.path, disk.ErrOutside, "its extent %q lies in another directory: it cannot be removed", e.Name)
		}
		names = append(names, e.Name)
	}
	return names, nil
}
