// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package plugins

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"
	"sync"

	"github.com/vmstream/vmstream/plugins/internal/sinkv1"
	"github.com/vmstream/vmstream/sinks"
)

const (
	// maxBatch bounds the objects in one message.
	maxBatch = 1000

	// maxListed bounds what a plugin may tell of: more than stores have, and less
	// than without end.
	maxListed = 16 << 20
)

// remote is a sink in another process.
type remote struct {
	p   *process
	can sinks.Capabilities

	closeOnce sync.Once
	closeErr  error
}

// Capabilities returns what the plugin has said.
func (r *remote) Capabilities() sinks.Capabilities { return r.can }

func (r *remote) unsupported(what string) error {
	return fmt.Errorf("sink %s: %s: %w", r.p.name, what, sinks.ErrUnsupported)
}

func (r *remote) wrong(what string, err error) error {
	if err == nil || !errors.Is(err, errAnswer) {
		return err
	}
	return fmt.Errorf("sink %s: %s: %w", r.p.name, what, err)
}

// Stat tells of an object.
func (r *remote) Stat(ctx context.Context, key string) (sinks.Info, error) {
	if !r.can.Stat {
		return sinks.Info{}, r.unsupported("stat")
	}
	if err := checkKey(key); err != nil {
		return sinks.Info{}, err
	}
	m, err := r.p.sink.Stat(ctx, &sinkv1.StatRequest{Key: []byte(key)})
	if err != nil {
		return sinks.Info{}, r.p.broken(ctx, "stat", err)
	}
	if err := failed(m.GetFailure()); err != nil {
		return sinks.Info{}, err
	}
	i, err := infoOf(key, m.GetInfo())
	return i, r.wrong("stat", err)
}

// Delete removes an object.
func (r *remote) Delete(ctx context.Context, key string) error {
	if !r.can.Delete {
		return r.unsupported("delete")
	}
	if err := checkKey(key); err != nil {
		return err
	}
	m, err := r.p.sink.Delete(ctx, &sinkv1.DeleteRequest{Key: []byte(key)})
	if err != nil {
		return r.p.broken(ctx, "delete", err)
	}
	return failed(m.GetFailure())
}

// RemoveOrphan removes what a writer has left.
func (r *remote) RemoveOrphan(ctx context.Context, o sinks.Orphan) error {
	if !r.can.Orphans {
		return r.unsupported("orphans")
	}
	if err := errors.Join(checkKey(o.Key), checkKey(o.ID)); err != nil {
		return err
	}
	m, err := r.p.sink.RemoveOrphan(ctx, &sinkv1.RemoveOrphanRequest{Orphan: orphanMessage(o)})
	if err != nil {
		return r.p.broken(ctx, "remove orphan", err)
	}
	return failed(m.GetFailure())
}

// List tells of objects, in the order of their keys.
func (r *remote) List(ctx context.Context, prefix string) iter.Seq2[sinks.Info, error] {
	if !r.can.List {
		return failing[sinks.Info](r.unsupported("list"))
	}
	return func(yield func(sinks.Info, error) bool) {
		last, behind := "", false // of this time through the list
		begin := func(ctx context.Context) (func() ([]*sinkv1.Info, *sinkv1.Failure, error), error) {
			s, err := r.p.sink.List(ctx, &sinkv1.ListRequest{Prefix: []byte(prefix)})
			return func() ([]*sinkv1.Info, *sinkv1.Failure, error) {
				m, err := s.Recv()
				return m.GetInfos(), m.GetFailure(), err
			}, err
		}
		listed(ctx, r.p, "list", prefix, begin, func(m *sinkv1.Info) (sinks.Info, error) {
			i, err := info(m)
			switch {
			case err != nil:
			case !strings.HasPrefix(i.Key, prefix):
				err = answer("the key %q, asked for %q", short(i.Key), short(prefix))
			case behind && i.Key <= last:
				err = answer("the key %q behind %q", short(i.Key), short(last))
			}
			last, behind = i.Key, true
			return i, err
		})(yield)
	}
}

// Orphans tells of what writers have left behind.
func (r *remote) Orphans(ctx context.Context, prefix string) iter.Seq2[sinks.Orphan, error] {
	if !r.can.Orphans {
		return failing[sinks.Orphan](r.unsupported("orphans"))
	}
	return listed(ctx, r.p, "orphans", prefix, func(ctx context.Context) (func() ([]*sinkv1.Orphan, *sinkv1.Failure, error), error) {
		s, err := r.p.sink.Orphans(ctx, &sinkv1.OrphansRequest{Prefix: []byte(prefix)})
		return func() ([]*sinkv1.Orphan, *sinkv1.Failure, error) {
			m, err := s.Recv()
			return m.GetOrphans(), m.GetFailure(), err
		}, err
	}, func(m *sinkv1.Orphan) (sinks.Orphan, error) {
		o, err := orphan(m)
		if err == nil && !strings.HasPrefix(o.Key, prefix) {
			err = answer("the key %q, asked for %q", short(o.Key), short(prefix))
		}
		return o, err
	})
}

func failing[T any](err error) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		var none T
		yield(none, err)
	}
}

// listed goes through a stream of batches. begin begins the call, take takes one of
// what came.
func listed[M, T any](
	ctx context.Context, p *process, what, prefix string,
	begin func(context.Context) (func() ([]M, *sinkv1.Failure, error), error), take func(M) (T, error),
) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		var none T
		if err := checkKey(prefix); err != nil {
			yield(none, err)
			return
		}
		inner, cancel := context.WithCancel(ctx)
		defer cancel()
		recv, err := begin(inner)
		for count := 0; err == nil; {
			var batch []M
			var f *sinkv1.Failure
			if batch, f, err = recv(); err != nil {
				break
			}
			if count += len(batch); len(batch) > maxBatch || count > maxListed {
				err = answer("%d at once, %d in all", len(batch), count)
				break
			}
			for _, m := range batch {
				one, err := take(m)
				if err != nil {
					yield(none, p.broken(ctx, what, err))
					return
				}
				if !yield(one, nil) {
					return
				}
			}
			if err := failed(f); err != nil {
				yield(none, err)
				return
			}
		}
		if !errors.Is(err, io.EOF) {
			yield(none, p.broken(ctx, what, err))
		}
	}
}

// Close ends the use of the sink, and its process.
func (r *remote) Close() error {
	r.closeOnce.Do(func() {
		ctx, cancel := context.WithTimeoutCause(context.Background(), r.p.time.abort, errors.New("it does not end"))
		defer cancel()
		m, err := r.p.sink.Close(ctx, &sinkv1.CloseRequest{})
		if err != nil {
			r.closeErr = r.p.broken(ctx, "close", err)
			r.p.end(0)
			return
		}
		r.closeErr = failed(m.GetFailure())
		r.p.end(r.p.time.end)
	})
	return r.closeErr
}
