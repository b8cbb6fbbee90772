// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package snapshot

import (
	"crypto/rand"
	"encoding/hex"
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
)

// DefaultStateDir is where snapshots are noted if nobody says otherwise.
const DefaultStateDir = "/var/lib/vmstream"

const (
	recordFormat   = "vmstream-snapshot/1"
	recordName     = "record.json"
	lockName       = "lock"
	maxRecordBytes = 4 << 20
	maxRecords     = 1 << 14

	// abandoned is how old a directory without a record is that nobody is
	// about to write one to.
	abandoned = time.Minute
)

// Journal is a directory with a record of each snapshot that exists. It may be
// used by several processes.
//
// Records say which commands end a snapshot, so nobody else may write to the
// directory: it is refused if that is possible.
type Journal struct {
	dir   string
	saved func(phase string) // for tests; nil does nothing
}

// OpenJournal returns the journal below the state directory, which is made if
// it does not exist.
func OpenJournal(stateDir string) (*Journal, error) {
	dir := filepath.Join(stateDir, "snapshots")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	for _, d := range []string{stateDir, dir} {
		if err := checkPrivate(d); err != nil {
			return nil, err
		}
	}
	return &Journal{dir: dir}, nil
}

// Record is what is noted of a snapshot.
type Record struct {
	Format   string    `json:"format"`
	ID       string    `json:"id"`
	Provider string    `json:"provider"`
	BackupID string    `json:"backup_id"`
	Source   string    `json:"source"` // what the operator named
	Created  time.Time `json:"created"`
	Host     string    `json:"host"`
	PID      int       `json:"pid"`

	Phase string          `json:"phase"`          // as the provider calls it; "" before its first step
	Data  json.RawMessage `json:"data,omitempty"` // the provider's
}

// Listed is a record as a list has it.
type Listed struct {
	Record
	Alive bool  // the run that made it is there
	Err   error // why the record cannot be read; ID is set all the same
}

// Entry is a record that belongs to this process until it is closed. It is for
// one goroutine at a time.
type Entry struct {
	dir  string
	lock *os.File
	rec  Record
	done bool

	saved func(phase string)
}

// Begin makes a record of a snapshot that is about to be made. ID, Created, Host
// and PID are filled in.
func (j *Journal) Begin(rec Record) (*Entry, error) {
	var b [4]byte
	_, _ = rand.Read(b[:]) // never fails, see crypto/rand
	rec.Format, rec.Created, rec.PID = recordFormat, time.Now().UTC().Truncate(time.Second), os.Getpid()
	rec.ID = rec.Created.Format("20060102T150405Z-") + hex.EncodeToString(b[:])
	rec.Host, _ = os.Hostname() // only told
	dir := filepath.Join(j.dir, rec.ID)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	lock, err := lockFile(filepath.Join(dir, lockName))
	if err != nil {
		return nil, errors.Join(err, os.Remove(dir))
	}
	e := &Entry{dir: dir, lock: lock, rec: rec, saved: j.saved}
	if err := errors.Join(e.write(), disk.SyncDir(j.dir)); err != nil {
		return nil, errors.Join(err, e.End())
	}
	return e, nil
}

// Record returns what is noted.
func (e *Entry) Record() Record { return e.rec }

// Save notes the phase and the provider's data. They are durable on return.
func (e *Entry) Save(phase string, data any) error {
	b, err := json.Marshal(data)
	if err != nil {
		return err
	}
	if len(b) > maxRecordBytes/2 {
		return fmt.Errorf("snapshot %s: a record of %d bytes is too long: %w", e.rec.ID, len(b), disk.ErrUnsupported)
	}
	e.rec.Phase, e.rec.Data = phase, b
	err = e.write()
	if e.saved != nil {
		e.saved(phase)
	}
	return err
}

// notNoted tells that undoing goes on though its phase could not be noted: a full
// disk is a reason to remove a snapshot, not to leave it.
func notNoted(err error) string { return fmt.Sprintf("how far it has come is not noted: %v", err) }

// Load returns the provider's data.
func (e *Entry) Load(data any) error {
	if len(e.rec.Data) == 0 {
		return nil
	}
	if err := json.Unmarshal(e.rec.Data, data); err != nil {
		return recordError(e.dir, err)
	}
	return nil
}

var errNull = errors.New("null in a list")

func recordError(dir string, err error) error {
	return &disk.FormatError{File: filepath.Join(dir, recordName), Format: "snapshot record", Offset: -1, Err: disk.ErrCorrupt, Detail: err.Error()}
}

func (e *Entry) write() error {
	b, err := json.MarshalIndent(&e.rec, "", " ")
	if err != nil {
		return err
	}
	tmp, final := filepath.Join(e.dir, recordName+".tmp"), filepath.Join(e.dir, recordName)
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(append(b, '\n'))
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(tmp, final); err != nil {
		return err
	}
	return disk.SyncDir(e.dir)
}

// End removes the record: nothing is left of the snapshot.
func (e *Entry) End() error {
	if e.done {
		return nil
	}
	err := removeRecord(e.dir)
	if err == nil {
		e.done = true
	}
	return errors.Join(err, e.Close())
}

// removeRecord removes the record first: without it a directory means nothing.
func removeRecord(dir string) error {
	for _, name := range []string{recordName, recordName + ".tmp", lockName, ""} {
		if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return disk.SyncDir(filepath.Dir(dir))
}

// Close gives the record up. It stays unless End has removed it.
func (e *Entry) Close() error {
	if e.lock == nil {
		return nil
	}
	err := unlock(e.lock)
	e.lock = nil
	return err
}

// List returns the records, oldest first.
func (j *Journal) List() ([]Listed, error) {
	d, err := os.Open(j.dir)
	if err != nil {
		return nil, err
	}
	names, err := d.Readdirnames(maxRecords)
	if err = errors.Join(ignoreEOF(err), d.Close()); err != nil {
		return nil, err
	}
	slices.Sort(names) // names begin with the time
	var out []Listed
	for _, name := range names {
		l, ok := j.listed(name)
		if ok {
			out = append(out, l)
		}
	}
	return out, nil
}

func ignoreEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// listed reads a record. A directory without one is what a run has left that
// was killed at its beginning or its end.
func (j *Journal) listed(name string) (Listed, bool) {
	dir := filepath.Join(j.dir, name)
	rec, err := readRecord(dir)
	if errors.Is(err, fs.ErrNotExist) {
		if st, err := os.Stat(dir); err == nil && time.Since(st.ModTime()) > abandoned {
			if lock, err := openLock(dir); err == nil {
				_ = errors.Join(removeRecord(dir), unlock(lock)) // the next list tries again
			}
		}
		return Listed{}, false
	}
	l := Listed{Record: rec, Err: err}
	l.ID = name
	lock, err := openLock(dir)
	switch {
	case errors.Is(err, disk.ErrInUse):
		l.Alive = true
	case err == nil:
		_ = unlock(lock) // only looked at
	}
	return l, true
}

func openLock(dir string) (*os.File, error) { return lockFile(filepath.Join(dir, lockName)) }

// Open takes over the record of a run that is gone. It fails with disk.ErrInUse
// if the run is there, and with fs.ErrNotExist if there is no such record.
func (j *Journal) Open(id string) (*Entry, error) {
	if id == "" || strings.ContainsAny(id, `/\`) || strings.HasPrefix(id, ".") {
		return nil, fmt.Errorf("snapshot %q: no such record: %w", id, fs.ErrNotExist)
	}
	dir := filepath.Join(j.dir, id)
	if _, err := os.Lstat(dir); err != nil {
		return nil, fmt.Errorf("snapshot %s: %w", id, err)
	}
	lock, err := openLock(dir)
	if err != nil {
		return nil, fmt.Errorf("snapshot %s: %w", id, err)
	}
	rec, err := readRecord(dir)
	if err == nil && rec.ID != id {
		err = recordError(dir, fmt.Errorf("its id is %q", rec.ID))
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("snapshot %s: %w", id, err), unlock(lock))
	}
	return &Entry{dir: dir, lock: lock, rec: rec}, nil
}

func readRecord(dir string) (Record, error) {
	var rec Record
	f, err := disk.OpenRegular(filepath.Join(dir, recordName))
	if err != nil {
		return rec, err
	}
	b, err := io.ReadAll(io.LimitReader(f, maxRecordBytes+1))
	if err = errors.Join(err, f.Close()); err != nil {
		return rec, err
	}
	return parseRecord(dir, b)
}

func parseRecord(dir string, b []byte) (rec Record, err error) {
	if len(b) > maxRecordBytes {
		return rec, recordError(dir, fmt.Errorf("longer than %d bytes", maxRecordBytes))
	}
	if err := json.Unmarshal(b, &rec); err != nil {
		return rec, recordError(dir, err)
	}
	if rec.Format != recordFormat {
		return rec, &disk.FormatError{File: filepath.Join(dir, recordName), Format: "snapshot record", Field: "format", Offset: -1, Err: disk.ErrUnsupported, Detail: fmt.Sprintf("is %q, this program reads %q", rec.Format, recordFormat)}
	}
	return rec, nil
}
