// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/vm/qmp"
	"github.com/vmstream/vmstream/vm/snapshot"
)

// args are arguments of a command of QMP.
type args map[string]any

// session is a connection to a machine together with the record of what is made
// in it.
type session struct {
	*qmp.Client
	rec     *record
	entry   *snapshot.Entry
	serving bool // the NBD server was started by this session
	frozen  bool // the guest's file systems may have been left frozen
	hook    func(string) error
	warn    func(string)
	detail  func(string)
}

// errKilled is what tests stop a run with: nothing is undone then.
var errKilled = errors.New("killed")

func (s *session) step(name string) error {
	if s.hook == nil {
		return nil
	}
	return s.hook(name)
}

// save notes the phase.
func (s *session) save(phase string) error {
	if err := s.step("before noting " + phase); err != nil {
		return err
	}
	if err := s.entry.Save(phase, s.rec); err != nil {
		return err
	}
	return s.step("noted " + phase)
}

// do runs a command that changes something.
func (s *session) do(ctx context.Context, command string, a args) error {
	if err := s.step("before " + command); err != nil {
		return err
	}
	var arguments any // a nil map would be sent as null
	if a != nil {
		arguments = a
	}
	if err := s.Run(ctx, command, arguments, nil); err != nil {
		return err
	}
	return s.step(command)
}

// action is a part of a transaction.
func action(kind string, data args) args { return args{"type": kind, "data": data} }

func (s *session) transaction(ctx context.Context, actions []args) error {
	if len(actions) == 0 {
		return nil
	}
	return s.do(ctx, "transaction", args{"actions": actions})
}

// job is one as query-jobs has it.
type job struct {
	ID     string `json:"id"`
	Type   string `json:"type"`
	Status string `json:"status"`
	Error  string `json:"error"`
	Done   int64  `json:"current-progress"`
	Total  int64  `json:"total-progress"`
}

// job returns a job, nil if there is none.
func (s *session) job(ctx context.Context, id string) (*job, error) {
	var jobs []job
	if err := s.Run(ctx, "query-jobs", nil, &jobs); err != nil {
		return nil, err
	}
	if i := slices.IndexFunc(jobs, func(j job) bool { return j.ID == id }); i >= 0 {
		return &jobs[i], nil
	}
	return nil, nil
}

// Jobs are looked at again after pollFirst, then more and more rarely.
const (
	pollFirst = time.Millisecond
	pollLast  = 500 * time.Millisecond
	tellEvery = 10 * time.Second
)

// waitJob drives a job until it has concluded, dismisses it and returns its
// error. ready is called while the job waits for job-complete; nil leaves it.
// A job that does not exist has ended well.
func (s *session) waitJob(ctx context.Context, id string, ready func() error) error {
	told := time.Now()
	for pause := pollFirst; ; pause = min(pause*2, pollLast) {
		j, err := s.job(ctx, id)
		switch {
		case err != nil || j == nil:
			return err
		case j.Status == "concluded":
			if err := s.do(ctx, "job-dismiss", args{"id": id}); err != nil {
				return err
			}
			if j.Error != "" {
				return fmt.Errorf("%s: %w", j.Type, &qmp.Error{Command: "job " + id, Desc: j.Error})
			}
			return nil
		case j.Status == "ready" && ready != nil:
			if err := ready(); err != nil {
				return err
			}
		}
		if time.Since(told) > tellEvery && j.Total > 0 {
			told = time.Now()
			s.detail(fmt.Sprintf("%s: %s: %d of %d MiB", j.Type, j.Status, j.Done>>20, j.Total>>20))
		}
		if err := sleep(ctx, pause); err != nil {
			return err
		}
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// cancelJob ends a job, if it is there, and waits until it is gone.
func (s *session) cancelJob(ctx context.Context, id string) error {
	j, err := s.job(ctx, id)
	if err != nil || j == nil {
		return err
	}
	if j.Status != "concluded" {
		if err := s.do(ctx, "job-cancel", args{"id": id}); err != nil && !qmp.IsClass(err, "DeviceNotFound") {
			if j, again := s.job(ctx, id); again != nil || j != nil && j.Status != "concluded" {
				return err
			}
		}
	}
	var refused *qmp.Error
	if err := s.waitJob(ctx, id, nil); err != nil && !errors.As(err, &refused) {
		return err // the job's own error is no matter any more
	}
	return nil
}

// nodes returns the names of all nodes.
func (s *session) nodes(ctx context.Context) (map[string]bool, error) {
	var list []struct {
		Name string `json:"node-name"`
	}
	if err := s.Run(ctx, "query-named-block-nodes", args{"flat": true}, &list); err != nil {
		return nil, err
	}
	names := map[string]bool{}
	for _, n := range list {
		names[n.Name] = true
	}
	return names, nil
}

// create runs a blockdev-create job to its end.
func (s *session) create(ctx context.Context, id string, options args) error {
	if err := s.do(ctx, "blockdev-create", args{"job-id": id, "options": options}); err != nil {
		return err
	}
	return s.waitJob(ctx, id, nil)
}

// inUse says that somebody else has what we need.
func inUse(format string, a ...any) error {
	return fmt.Errorf("%s: %w", fmt.Sprintf(format, a...), disk.ErrInUse)
}
