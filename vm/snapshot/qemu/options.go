// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"fmt"
	"path/filepath"
	"time"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/vm/guestagent"
	"github.com/vmstream/vmstream/vm/snapshot"
)

// ProviderName is what the journal and the command line call this provider.
const ProviderName = "qmp"

// Mode is how disks are made to stand still.
type Mode string

// The modes. Auto is Fleece, for disks of every format.
const (
	Auto    Mode = "auto"
	Fleece  Mode = "fleece"
	Overlay Mode = "overlay"
)

// Options say which machine is meant and how its disks are made to stand still.
type Options struct {
	// Socket is the path of the machine's QMP socket. It must not be in use by
	// another client, and is kept for as long as the snapshot lasts.
	Socket string
	// Agent is the path of the guest agent's socket. If it is given, file
	// systems are frozen for the moment of the snapshot. If the agent does not
	// answer, that is a warning, and the consistency is crash.
	Agent string
	// MountPoints are the file systems to freeze; all of the guest's if empty.
	MountPoints []string
	// FreezeLimit is how long file systems may stay frozen: 10 s if it is 0.
	FreezeLimit time.Duration
	// Mode is Auto if empty.
	Mode Mode
	// Scratch is a directory for scratch files and overlays that QEMU can write
	// to. If empty it is the directory of each disk's file.
	Scratch string
	// ReserveBytes is how much must stay free where scratch files are, 128 MiB
	// if it is 0: below that the snapshot is given up, because a guest's write
	// fails if what it overwrites cannot be saved.
	ReserveBytes int64
	// NoBitmaps leaves dirty bitmaps alone: there can be no increment then.
	NoBitmaps bool
}

// Provider implements [snapshot.Provider].
type Provider struct {
	opt Options
	// hook is called around every step; tests stop there as a kill would.
	hook func(step string) error
	// tempDir has the NBD server's socket; the system's if empty.
	tempDir string
}

var _ snapshot.Provider = (*Provider)(nil)

// New returns a provider. To reap, no option is needed.
func New(opt Options) (*Provider, error) {
	switch opt.Mode {
	case "":
		opt.Mode = Auto
	case Auto, Fleece, Overlay:
	default:
		return nil, fmt.Errorf("snapshot mode %q: %w; there are auto, fleece and overlay", opt.Mode, disk.ErrUnsupported)
	}
	if opt.FreezeLimit <= 0 || opt.FreezeLimit > guestagent.MaxFreeze {
		opt.FreezeLimit = guestagent.MaxFreeze
	}
	if opt.ReserveBytes == 0 {
		opt.ReserveBytes = 128 << 20
	}
	for _, p := range []*string{&opt.Socket, &opt.Agent, &opt.Scratch} {
		if *p == "" {
			continue
		}
		abs, err := filepath.Abs(*p) // the journal is read from another directory
		if err != nil {
			return nil, err
		}
		*p = abs
	}
	return &Provider{opt: opt}, nil
}

// Name returns "qmp".
func (p *Provider) Name() string { return ProviderName }
