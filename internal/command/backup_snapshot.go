// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package command

import (
	"errors"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/internal/cli"
	"github.com/vmstream/vmstream/vm/snapshot"
)

// snapshotFlags choose how the disks are made to stand still.
type snapshotFlags struct {
	kind     string
	keep     bool
	stateDir string
}

const autoSnapshot = "auto"

func snapshotKinds() []string {
	return []string{autoSnapshot, snapshot.NoneName, snapshot.RedoName}
}

func (s *snapshotFlags) add(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&s.kind, "snapshot", autoSnapshot, "how the disks are made to stand still: auto, none, redo")
	f.BoolVar(&s.keep, "keep-snapshot", false, "leave the redo logs that --snapshot redo has added")
	addStateDir(c, &s.stateDir)
	complete(c, "snapshot", snapshotKinds())
}

func addStateDir(c *cobra.Command, dir *string) {
	c.Flags().StringVar(dir, "state-dir", snapshot.DefaultStateDir, "where snapshots are noted")
}

// provider returns the provider that the flags choose.
func (s *snapshotFlags) provider() (snapshot.Provider, error) {
	if !slices.Contains(snapshotKinds(), s.kind) {
		return nil, cli.Usage(fmt.Errorf("--snapshot %q: one of %v", s.kind, snapshotKinds()))
	}
	if s.keep && s.kind != snapshot.RedoName {
		return nil, cli.Usage(errors.New("--keep-snapshot goes with --snapshot redo"))
	}
	switch s.kind {
	case snapshot.RedoName:
		return snapshot.Redo{Keep: s.keep}, nil
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
	return &cli.Error{Code: cli.ExitSource, Err: err, Hint: "--snapshot redo needs the VM powered off for a moment only"}
}

// providers are those that may have left something behind.
func providers() []snapshot.Provider {
	return []snapshot.Provider{snapshot.Redo{}}
}
