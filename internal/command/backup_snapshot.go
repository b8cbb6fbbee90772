// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package command

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/internal/cli"
	"github.com/vmstream/vmstream/vm/snapshot"
	"github.com/vmstream/vmstream/vm/snapshot/qemu"
)

// snapshotFlags choose how the disks are made to stand still.
type snapshotFlags struct {
	kind     string
	keep     bool
	rolling  bool
	stateDir string
	exec     execFlags
	qmp      qmpFlags
}

// qmpFlags say which running machine of QEMU is meant.
type qmpFlags struct{ socket, agent, mode, scratch string }

func qmpModes() []string {
	return []string{string(qemu.Auto), string(qemu.Fleece), string(qemu.Overlay)}
}

func (q *qmpFlags) add(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&q.socket, "qmp", "", "take a snapshot of the running QEMU or KVM guest that has this QMP socket; VM may be left out")
	f.StringVar(&q.agent, "guest-agent", "", "freeze its file systems by the guest agent on this socket")
	f.StringVar(&q.mode, "qmp-mode", string(qemu.Auto), "how its disks are made to stand still: auto, fleece, overlay")
	f.StringVar(&q.scratch, "scratch", "", "where QEMU puts what is needed meanwhile (beside each disk if empty)")
	complete(c, "qmp-mode", qmpModes())
}

func (q *qmpFlags) provider() (snapshot.Provider, error) {
	if q.socket == "" {
		return nil, cli.Usage(errors.New("--snapshot qmp needs --qmp SOCKET"))
	}
	if !slices.Contains(qmpModes(), q.mode) {
		return nil, cli.Usage(fmt.Errorf("--qmp-mode %q: one of %v", q.mode, qmpModes()))
	}
	p, err := qemu.New(qemu.Options{Socket: q.socket, Agent: q.agent, Mode: qemu.Mode(q.mode), Scratch: q.scratch})
	if err != nil {
		return nil, cli.Usage(err)
	}
	return p, nil
}

// execFlags are the commands of --snapshot exec.
type execFlags struct {
	preset                       string
	create, remove, list, verify string
	quiesce                      bool
	timeout                      time.Duration
}

func (e *execFlags) add(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&e.preset, "exec", "", "take a snapshot with the tools of this kind of host: esx2 (vmware-cmd), esxi (vim-cmd)")
	f.StringVar(&e.create, "exec-create", "", "command that makes a snapshot, with {config} {disk} {id} {name}")
	f.StringVar(&e.remove, "exec-remove", "", "command that removes it, also with {snapshot} {level}")
	f.StringVar(&e.list, "exec-list", "", "command that prints a line \"ID NAME\" for each snapshot, to find {snapshot}")
	f.StringVar(&e.verify, "exec-check", "", "command that fails if the snapshot has not held")
	f.BoolVar(&e.quiesce, "exec-quiesce", false, "have the host freeze the guest's file systems (esxi, or what --exec-create does)")
	f.DurationVar(&e.timeout, "exec-timeout", snapshot.DefaultExecTimeout, "kill one of these commands that takes longer")
	complete(c, "exec", []string{"esx2", "esxi"})
}

func (e *execFlags) given() bool {
	return e.preset != "" || e.create != "" || e.remove != "" || e.list != "" || e.verify != ""
}

func (e *execFlags) provider(a *app, rolling bool) (snapshot.Provider, error) {
	var c snapshot.ExecCommands
	if e.preset != "" {
		var ok bool
		if c, ok = snapshot.ExecPreset(e.preset, e.quiesce); !ok {
			return nil, cli.Usage(fmt.Errorf("--exec %q: esx2 or esxi", e.preset))
		}
	}
	for _, f := range []struct {
		to   *snapshot.Template
		from string
	}{{&c.Create, e.create}, {&c.Remove, e.remove}, {&c.List, e.list}, {&c.Check, e.verify}} {
		if f.from != "" {
			*f.to = snapshot.Template(f.from)
		}
	}
	c.Quiesced = c.Quiesced || e.quiesce && e.create != ""
	if c.Timeout = e.timeout; c.Timeout <= 0 {
		return nil, cli.Usage(errors.New("--exec-timeout must be more than 0"))
	}
	if e.quiesce && !c.Quiesced {
		return nil, cli.Usage(errors.New("--exec-quiesce: esx2 cannot freeze file systems; use --pre-freeze and --post-thaw"))
	}
	if err := c.Validate(); err != nil {
		return nil, cli.Usage(fmt.Errorf("--snapshot exec: %w; give --exec, or --exec-create and --exec-remove", err))
	}
	if rolling && !c.Remove.HasLevel() {
		return nil, cli.Usage(errors.New("--rolling needs a host whose tools merge the lower of two redo logs: --exec esx2, or {level} in --exec-remove"))
	}
	return &snapshot.Exec{ExecCommands: c, Rolling: rolling, Line: execLine(a)}, nil
}

// execLine shows what the host's tools say, with -v.
func execLine(a *app) func(string) {
	return func(s string) { a.console.Detail("host: %s", s) }
}

const autoSnapshot = "auto"

func snapshotKinds() []string {
	return []string{autoSnapshot, snapshot.NoneName, snapshot.RedoName, snapshot.ExecName, qemu.ProviderName}
}

func (s *snapshotFlags) add(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&s.kind, "snapshot", autoSnapshot, "how the disks are made to stand still: auto, none, redo, exec, qmp")
	f.BoolVar(&s.keep, "keep-snapshot", false, "leave the redo logs that --snapshot redo has added")
	f.BoolVar(&s.rolling, "rolling", false, "let a redo log stay that collects what the next backup with --since takes, and merge the one before it into the base")
	addStateDir(c, &s.stateDir)
	s.exec.add(c)
	s.qmp.add(c)
	complete(c, "snapshot", snapshotKinds())
}

func addStateDir(c *cobra.Command, dir *string) {
	c.Flags().StringVar(dir, "state-dir", snapshot.DefaultStateDir, "where snapshots are noted")
}

// provider returns the provider that the flags choose.
func (s *snapshotFlags) provider(a *app) (snapshot.Provider, error) {
	if !slices.Contains(snapshotKinds(), s.kind) {
		return nil, cli.Usage(fmt.Errorf("--snapshot %q: one of %v", s.kind, snapshotKinds()))
	}
	if s.rolling && s.kind == autoSnapshot && !s.exec.given() && s.qmp.socket == "" {
		s.kind = snapshot.RedoName
	}
	if s.keep && (s.kind != snapshot.RedoName || s.rolling) {
		return nil, cli.Usage(errors.New("--keep-snapshot goes with --snapshot redo"))
	}
	auto := s.kind == autoSnapshot
	switch {
	case auto && s.exec.given() && s.qmp.socket != "":
		return nil, cli.Usage(errors.New("both --qmp and --exec: choose with --snapshot"))
	case s.kind == qemu.ProviderName || auto && s.qmp.socket != "":
		if s.rolling {
			return nil, cli.Usage(errors.New("--rolling is for redo logs; QEMU keeps track of changes itself"))
		}
		return s.qmp.provider()
	case s.kind == snapshot.ExecName || auto && s.exec.given():
		return s.exec.provider(a, s.rolling)
	case s.qmp != (qmpFlags{mode: string(qemu.Auto)}):
		return nil, cli.Usage(fmt.Errorf("--qmp and its like go with --snapshot qmp, not %s", s.kind))
	case s.exec.given() || s.exec.quiesce:
		return nil, cli.Usage(fmt.Errorf("--exec and its like go with --snapshot exec, not %s", s.kind))
	case s.kind == snapshot.RedoName:
		return snapshot.Redo{Keep: s.keep, Rolling: s.rolling}, nil
	case s.rolling:
		return nil, cli.Usage(errors.New("--rolling goes with --snapshot redo, or with --exec esx2"))
	}
	return snapshot.None{}, nil
}

// journal returns the journal for a provider, nil for one that leaves nothing
// behind.
func (s *snapshotFlags) journal(p snapshot.Provider) (*snapshot.Journal, error) {
	if p.Name() == snapshot.NoneName {
		return nil, nil
	}
	j, err := snapshot.OpenJournal(s.stateDir)
	if err != nil {
		return nil, &cli.Error{Code: cli.ExitSource, Err: err, Hint: "choose a directory that only you can write to with --state-dir"}
	}
	return j, nil
}

// hintInUse adds what helps where a source is in use.
func (s *snapshotFlags) hintInUse(err error) error {
	var coded *cli.Error
	if !errors.Is(err, disk.ErrInUse) || errors.As(err, &coded) || s.kind != autoSnapshot {
		return err
	}
	return &cli.Error{Code: cli.ExitSource, Err: err, Hint: "--qmp or --exec takes a VM that is running; --snapshot redo needs it powered off for a moment"}
}

// providers are those that may have left something behind.
func providers(a *app) []snapshot.Provider {
	all := []snapshot.Provider{snapshot.Redo{}, &snapshot.Exec{Line: execLine(a)}}
	if q, err := qemu.New(qemu.Options{}); err == nil { // always: the record has the rest
		all = append(all, q)
	}
	return all
}
