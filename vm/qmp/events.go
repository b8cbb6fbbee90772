// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package qmp

import (
	"context"
	"fmt"
	"sync"

	"github.com/vmstream/vmstream/disk"
)

// maxQueued bounds the events that a subscription keeps for a reader who does
// not come. A guest can cause events.
const maxQueued = 4096

// Subscription keeps the events that it matches, from the moment it is made,
// in their order. To wait for what a command causes, subscribe before running it.
type Subscription struct {
	c     *Client
	match func(Event) bool

	mu     sync.Mutex
	queue  []Event
	lost   int
	signal chan struct{} // holds a token while there may be something new
}

// Subscribe returns a subscription to the events that match reports true for.
// match must be quick and must not call the client.
func (c *Client) Subscribe(match func(Event) bool) *Subscription {
	s := &Subscription{c: c, match: match, signal: make(chan struct{}, 1)}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.subs[s] = struct{}{}
	return s
}

// Close ends the subscription.
func (s *Subscription) Close() {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	delete(s.c.subs, s)
}

func (s *Subscription) offer(e Event) {
	if !s.match(e) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.queue) == maxQueued {
		s.lost++
	} else {
		s.queue = append(s.queue, e)
	}
	select {
	case s.signal <- struct{}{}:
	default:
	}
}

// Next takes the first event that match reports true for, waiting for it if it
// has not come yet; the others stay. A nil match takes any.
func (s *Subscription) Next(ctx context.Context, match func(Event) bool) (Event, error) {
	for {
		if e, ok, err := s.Take(match); ok || err != nil {
			return e, err
		}
		select {
		case <-s.signal:
		case <-ctx.Done():
			return Event{}, context.Cause(ctx)
		case <-s.c.ended:
			if e, ok, err := s.Take(match); ok || err != nil {
				return e, err
			}
			return Event{}, s.c.err // set before ended was closed
		}
	}
}

// Take is Next without waiting; ok is false if no such event has come.
func (s *Subscription) Take(match func(Event) bool) (e Event, ok bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, e := range s.queue {
		if match == nil || match(e) {
			s.queue = append(s.queue[:i], s.queue[i+1:]...)
			return e, true, nil
		}
	}
	if s.lost > 0 {
		return Event{}, false, fmt.Errorf("qmp: %d events came that nobody took: %w", s.lost, disk.ErrTruncated)
	}
	return Event{}, false, nil
}
