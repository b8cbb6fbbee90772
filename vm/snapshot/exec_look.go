// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package snapshot

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/vm"
)

// settleTime is how long the host is given to do what it has been told, after
// the command has ended.
const settleTime = 10 * time.Second

// await repeats look until it succeeds or its time is over.
func (x *execRun) await(ctx context.Context, look func() error) error {
	deadline := time.Now().Add(min(settleTime, x.rec.Commands.Timeout))
	for {
		err := look()
		if err == nil || time.Now().After(deadline) {
			return err
		}
		select {
		case <-ctx.Done():
			return errors.Join(context.Cause(ctx), err)
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// disks returns the levels of each disk as they are now, from the top down.
func (x *execRun) disks() ([][]string, error) {
	load := vm.LoadOptions{NoLogs: true}
	if !x.rec.AllowOutside {
		load.Roots = vm.DefaultRoots()
	}
	m, err := vm.Load(x.rec.Config, load)
	if err != nil {
		return nil, err
	}
	var out [][]string
	for _, want := range x.rec.Disks {
		var links []string
		for i := range m.Disks {
			if m.Disks[i].Key == want.Key {
				links, err = linkPaths(&m.Disks[i], x.rec.AllowOutside)
			}
		}
		if err == nil && links == nil {
			err = errNoDisk
		}
		if err != nil {
			return nil, fmt.Errorf("%s: disk %s: %w", x.rec.Config, want.Key, err)
		}
		out = append(out, links)
	}
	return out, nil
}

// levels fills in the new levels. It fails unless each disk has exactly one.
func (x *execRun) levels() error {
	all, err := x.disks()
	if err != nil {
		return err
	}
	for i, d := range x.rec.Disks {
		links := all[i]
		if at := findLink(links, d.Parent); at != 1 || len(links) != d.Links+1 {
			return fmt.Errorf("disk %s: %w: it has %d levels and had %d, and its former top %s is %s", d.Key, errNoLevel, len(links), d.Links, d.Parent, place(at))
		}
		d.Level, x.seen = links[0], true
	}
	return nil
}

var errNoLevel = fmt.Errorf("the command has not put one level over it: %w", disk.ErrMismatch)

func place(at int) string {
	if at < 0 {
		return "none of them"
	}
	return "the " + strconv.Itoa(at+1) + ". from above"
}
