// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package snapshot

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"sync"
	"time"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/vm"
	"github.com/vmstream/vmstream/vmdk"
)

// Consistency is what state the disks of a snapshot are in.
type Consistency string

// The levels of consistency, weakest first.
const (
	Crash       Consistency = "crash"       // as after a power cut
	Filesystem  Consistency = "filesystem"  // file systems were frozen
	Application Consistency = "application" // applications were quiesced
	PoweredOff  Consistency = "powered-off" // the machine was not running
)

// Provider makes snapshots of one kind. Its methods may be called by one
// goroutine at a time.
type Provider interface {
	// Name is what the journal and the command line call the provider.
	Name() string

	// Create makes a snapshot. Before every step that leaves something behind it
	// saves to e what that is. It wraps the step that fixes the point in time,
	// and no more than that, in r.Moment. If it fails it undoes what it has
	// done, also when ctx is over, and ends e; what it cannot undo stays in e,
	// and the error says so.
	Create(ctx context.Context, r *Request, e *Entry) (*Snapshot, error)

	// Reap undoes what the run that wrote e has left, and ends e when nothing is
	// left. It may be called again. What it must not touch, because a guest's
	// data is in it, it leaves and says what to do.
	Reap(ctx context.Context, e *Entry, to Voice) error
}

// Voice is who is told what. Nil functions are silence.
type Voice struct {
	Warn   func(string) // what an operator should know
	Detail func(string) // what only -v shows
}

func (v Voice) orSilent() Voice {
	if v.Warn == nil {
		v.Warn = func(string) {}
	}
	if v.Detail == nil {
		v.Detail = func(string) {}
	}
	return v
}

// Request says what a snapshot is made of.
type Request struct {
	BackupID string // names what is made; see stream.ValidID
	ParentID string // backup that an increment is going to be made on, "" for a full one

	Path  string   // what the operator named; "" if only the provider knows the machine
	VM    *vm.VM   // nil for a disk alone, and if only the provider knows the machine
	Disks []string // keys of the disks to take; all if empty

	Open       vmdk.Options // of the disks; Format is for a disk alone
	AllowInUse bool         // files that somebody seems to use may be changed or read

	// Before runs right before the point in time is fixed, After right behind
	// it, whatever came of it, once Before has been called. Both may be nil.
	Before, After func(context.Context) error

	// Opened is asked about each disk once its files are open, before anything is
	// changed: an error refuses it. It may be nil.
	Opened func(key string, files []string) error

	Warn   func(string) // takes what an operator should know
	Detail func(string) // takes what only -v shows

	stall time.Duration
}

// Wanted reports if the disk of this key is to be taken.
func (r *Request) Wanted(key string) bool {
	return len(r.Disks) == 0 || slices.Contains(r.Disks, key)
}

// Moment runs do, which fixes the point in time, between Before and After, and
// notes how long do took: a running guest may have had to wait for it.
func (r *Request) Moment(ctx context.Context, do func(context.Context) error) (err error) {
	if r.After != nil {
		defer func() { // thawing must not depend on whether somebody has lost patience
			err = errors.Join(err, r.After(context.WithoutCancel(ctx)))
		}()
	}
	if r.Before != nil {
		if err := r.Before(ctx); err != nil {
			return err
		}
	}
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	began := time.Now()
	err = do(ctx)
	r.stall = time.Since(began)
	return err
}

// Runs tells which ranges of a disk have changed since an earlier backup: those
// of kind Data and Zero have, those of kind Parent have not. See [disk.Image].
type Runs interface {
	Runs(off, n int64) iter.Seq2[disk.Run, error]
}

// Disk is a disk that stands still until its snapshot is released.
type Disk struct {
	Key     string // such as scsi0:0
	Name    string // as the configuration or the hypervisor has it
	Base    string // base name that the disk's files are called by
	Path    string // of the file that stands still
	Adapter string // "" if not known
	Mode    string // as the configuration has it

	Image disk.Image // the snapshot closes it
	Info  vmdk.Info  // Kind, SizeBytes and CID at least

	// Changes returns what has changed since the backup of this id, if the
	// provider keeps track; nil if it does not. An error for which errors.Is
	// finds disk.ErrMismatch says that it cannot tell for this backup.
	Changes func(backupID string) (Runs, error)
}

// Snapshot is a set of disks of one point in time.
type Snapshot struct {
	Provider    string
	Machine     string // its name, if the provider knows it better than a configuration
	Consistency Consistency
	Disks       []Disk
	Taken       time.Time
	Stall       time.Duration // how long a guest may have had to wait for the snapshot

	// OnCheck fails if the disks do not stand still any more. nil if that
	// cannot happen.
	OnCheck func(context.Context) error

	// OnEndReading undoes what costs a running machine something, as far as that
	// does not depend on what becomes of the backup. OnRelease follows, and tries
	// again what has failed. nil if there is no such thing.
	OnEndReading func(context.Context) error

	// OnRelease undoes the snapshot and ends the entry; done says that the
	// backup is complete. If something is left, it stays in the journal.
	OnRelease func(ctx context.Context, done bool) error

	entry    *Entry
	mu       sync.Mutex
	read     bool      // the disks have been closed
	ended    time.Time // when the machine was let go; zero until then
	released time.Time // zero until then
}

// undoWhenRead has the whole snapshot undone when it has been read: it does not
// matter what becomes of the backup.
func (s *Snapshot) undoWhenRead() {
	undo, undone := s.OnRelease, false
	s.OnRelease = func(ctx context.Context, done bool) error {
		if undone {
			return nil
		}
		err := undo(ctx, done)
		undone = err == nil
		return err
	}
	s.OnEndReading = func(ctx context.Context) error { return s.OnRelease(ctx, false) }
}

// Check fails if the disks do not stand still any more: what has been read is
// not to be trusted then. It is to be called when all has been read.
func (s *Snapshot) Check(ctx context.Context) error {
	if s.OnCheck == nil {
		return nil
	}
	return s.OnCheck(ctx)
}

// Lifetime returns how long the snapshot has been there, or was: until the machine
// was let go.
func (s *Snapshot) Lifetime() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case !s.ended.IsZero():
		return s.ended.Sub(s.Taken)
	case !s.released.IsZero():
		return s.released.Sub(s.Taken)
	}
	return time.Since(s.Taken)
}

// EndReading closes the disks and lets the machine go, as far as that does not
// depend on what becomes of the backup: to store what has been read may take much
// longer than to read it. Check comes before, Release behind it, also after an
// error, and tries again what has failed. Behind Release it does nothing.
func (s *Snapshot) EndReading(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.read || !s.released.IsZero() {
		return nil
	}
	err := s.closeDisks()
	if s.OnEndReading == nil {
		return err
	}
	undoErr := s.OnEndReading(ctx)
	if undoErr == nil {
		s.ended = time.Now()
	}
	return errors.Join(err, undoErr)
}

// closeDisks closes what EndReading has not.
func (s *Snapshot) closeDisks() error {
	if s.read {
		return nil
	}
	s.read = true
	var errs []error
	for i := range s.Disks {
		if im := s.Disks[i].Image; im != nil {
			errs = append(errs, im.Close())
		}
	}
	return errors.Join(errs...)
}

// Release closes the disks and undoes the snapshot. done says that the backup
// is complete: providers that keep track of changes begin anew then. The
// context should not be one that a signal has cancelled. Further calls do
// nothing.
func (s *Snapshot) Release(ctx context.Context, done bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.released.IsZero() {
		return nil
	}
	defer func() { s.released = time.Now() }()
	errs := []error{s.closeDisks()}
	if s.OnRelease != nil {
		errs = append(errs, s.OnRelease(ctx, done))
	}
	if s.entry != nil {
		errs = append(errs, s.entry.Close())
	}
	return errors.Join(errs...)
}

// Take makes a snapshot. j may be nil for a provider that leaves nothing behind.
func Take(ctx context.Context, p Provider, j *Journal, r *Request) (*Snapshot, error) {
	v := Voice{r.Warn, r.Detail}.orSilent()
	r.Warn, r.Detail = v.Warn, v.Detail
	var e *Entry
	if j != nil {
		var err error
		if e, err = j.Begin(Record{Provider: p.Name(), BackupID: r.BackupID, Source: r.Path}); err != nil {
			return nil, fmt.Errorf("note the snapshot before it is made: %w", err)
		}
	}
	s, err := p.Create(ctx, r, e)
	if err != nil {
		if e == nil { // of what was opened, not of a snapshot
			return nil, err
		}
		return nil, fmt.Errorf("snapshot (%s): %w", p.Name(), errors.Join(err, e.Close()))
	}
	s.Provider, s.entry = p.Name(), e
	if s.Taken.IsZero() {
		s.Taken = time.Now()
	}
	if s.Stall == 0 {
		s.Stall = r.stall
	}
	return s, nil
}

// Reap ends the snapshot of a run that is gone. providers are those that may
// have made it.
func Reap(ctx context.Context, j *Journal, id string, providers []Provider, to Voice) error {
	e, err := j.Open(id)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(providers, func(p Provider) bool { return p.Name() == e.Record().Provider })
	if i < 0 {
		err = fmt.Errorf("snapshot %s: no provider is called %q: %w", id, e.Record().Provider, disk.ErrUnsupported)
	} else if err = providers[i].Reap(ctx, e, to.orSilent()); err != nil {
		err = fmt.Errorf("snapshot %s (%s): %w", id, e.Record().Provider, err)
	}
	return errors.Join(err, e.Close())
}
