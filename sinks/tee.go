// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package sinks

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"
)

const (
	teePieceBytes = 1 << 20 // of what is copied for the branches at a time
	teeQueue      = 4       // pieces that may wait for a branch
	teeAbort      = time.Minute
)

// Branch is one of the writers that a tee writes to.
type Branch struct {
	Name     string // for errors
	Writer   Writer
	Optional bool // its failure does not fail the others
}

// BranchError says how a branch has failed.
type BranchError struct {
	Name string
	Err  error
}

// Error names the branch.
func (e BranchError) Error() string { return e.Name + ": " + e.Err.Error() }

// Unwrap returns the branch's own error.
func (e BranchError) Unwrap() error { return e.Err }

// TeeWriter is a [Writer] that writes the same to several others. Each has a
// goroutine and a queue of a few pieces; one that is slow slows the others down.
type TeeWriter struct {
	ctx      context.Context
	cancel   context.CancelCauseFunc
	branches []*teeBranch
	running  sync.WaitGroup
	ended    bool // used by the writing goroutine only

	mu   sync.Mutex
	left int   // branches that have not failed
	err  error // of a required branch, or of the last one
}

type teeBranch struct {
	Branch
	queue chan []byte
	err   error // the goroutine's, and after it has ended the writer's; guarded by mu
}

// Tee returns a writer to all branches. The failure of a branch that is required
// fails the next Write, or Commit, and nothing is committed. A branch that is optional is
// aborted when it fails, and the rest go on; Failed tells. If none is left, that is an
// error too. When ctx ends, Write fails.
//
// Commit commits the required branches in their order, then the optional ones. If
// a required one cannot commit, those before it are stored and stay, the error names
// them, and the others are aborted. The Info is that of the first branch that was committed.
func Tee(ctx context.Context, branches ...Branch) *TeeWriter {
	t := &TeeWriter{left: len(branches)}
	t.ctx, t.cancel = context.WithCancelCause(ctx)
	for _, b := range branches {
		branch := &teeBranch{Branch: b, queue: make(chan []byte, teeQueue)}
		t.branches = append(t.branches, branch)
		t.running.Go(func() { t.run(branch) })
	}
	return t
}

// run takes pieces to a branch until there are no more, and drops them once it has failed.
func (t *TeeWriter) run(b *teeBranch) {
	failed := false
	for piece := range b.queue {
		if failed || t.ctx.Err() != nil {
			continue
		}
		if _, err := writeAll(b.Writer, piece); err != nil {
			failed = true
			if b.Optional {
				// Also when the tee's context is what has ended.
				ctx, cancel := context.WithTimeout(context.WithoutCancel(t.ctx), teeAbort)
				err = errors.Join(err, b.Writer.Abort(ctx))
				cancel()
			}
			t.fail(b, err)
		}
	}
}

func (t *TeeWriter) fail(b *teeBranch, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	b.err = err
	t.left--
	if (b.Optional && t.left > 0) || t.err != nil {
		return
	}
	t.err = BranchError{Name: b.Name, Err: err}
	t.cancel(t.err)
}

func (t *TeeWriter) failure() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.err
}

func (b *teeBranch) failed(t *TeeWriter) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return b.err
}

// Failed returns the errors of optional branches so far, in the order of the branches.
// It may be called at any time.
func (t *TeeWriter) Failed() []BranchError {
	t.mu.Lock()
	defer t.mu.Unlock()
	var all []BranchError
	for _, b := range t.branches {
		if b.Optional && b.err != nil {
			all = append(all, BranchError{Name: b.Name, Err: b.err})
		}
	}
	return all
}

// Write hands a copy of p to all branches; see [Tee].
func (t *TeeWriter) Write(p []byte) (int, error) {
	if t.ended {
		return 0, errEnded
	}
	done := 0
	for done < len(p) {
		// The caller may change p as soon as Write has returned.
		piece := append([]byte(nil), p[done:min(len(p), done+teePieceBytes)]...)
		for _, b := range t.branches {
			if err := context.Cause(t.ctx); err != nil {
				return done, err
			}
			select {
			case b.queue <- piece:
			case <-t.ctx.Done():
				return done, context.Cause(t.ctx)
			}
		}
		done += len(piece)
	}
	return done, nil
}

// finish waits until the branches have taken what is in their queues.
func (t *TeeWriter) finish(ctx context.Context) error {
	t.ended = true
	for _, b := range t.branches {
		close(b.queue)
	}
	done := make(chan struct{})
	go func() {
		t.running.Wait()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
	}
	t.cancel(context.Cause(ctx))
	// Writes under way end with the contexts of their writers, which are the caller's.
	<-done
	return context.Cause(ctx)
}

// Commit is described at [Tee].
func (t *TeeWriter) Commit(ctx context.Context, end End) (Info, error) {
	if t.ended {
		return Info{}, errEnded
	}
	err := t.finish(ctx)
	if err == nil {
		err = t.failure()
	}
	if err == nil {
		err = context.Cause(t.ctx)
	}
	if err != nil {
		return Info{}, errors.Join(err, t.abortAll(ctx, nil))
	}
	defer t.cancel(nil)
	return t.commitAll(ctx, end)
}

func (t *TeeWriter) commitAll(ctx context.Context, end End) (Info, error) {
	var first *Info
	var stored []string
	done := map[*teeBranch]bool{}
	for _, optional := range []bool{false, true} {
		for _, b := range t.branches {
			if b.Optional != optional || b.failed(t) != nil {
				continue
			}
			info, err := b.Writer.Commit(ctx, end)
			done[b] = true
			switch {
			case err == nil:
				stored = append(stored, b.Name)
				if first == nil {
					first = &info
				}
			case optional:
				t.fail(b, err)
			default:
				return Info{}, errors.Join(partly(BranchError{Name: b.Name, Err: err}, stored), t.abortAll(ctx, done))
			}
		}
	}
	if first == nil {
		if err := t.failure(); err != nil {
			return Info{}, err
		}
		return Info{}, errors.New("tee: no branches")
	}
	return *first, nil
}

// partly says which objects are stored although others are not.
func partly(err error, stored []string) error {
	if len(stored) == 0 {
		return err
	}
	return fmt.Errorf("%w; stored all the same, and left there: %s", err, strings.Join(stored, ", "))
}

// abortAll aborts all branches but those that have ended.
func (t *TeeWriter) abortAll(ctx context.Context, ended map[*teeBranch]bool) error {
	var errs []error
	for _, b := range t.branches {
		if ended[b] || (b.Optional && b.failed(t) != nil) {
			continue
		}
		if err := b.Writer.Abort(ctx); err != nil {
			errs = append(errs, BranchError{Name: b.Name, Err: fmt.Errorf("abort: %w", err)})
		}
	}
	return errors.Join(errs...)
}

// Abort aborts all branches. It waits for writes under way, which end with the
// contexts of their writers.
func (t *TeeWriter) Abort(ctx context.Context) error {
	if t.ended {
		return nil
	}
	t.cancel(errEnded)
	_ = t.finish(ctx) // what it says is the caller's own context
	return t.abortAll(ctx, nil)
}
