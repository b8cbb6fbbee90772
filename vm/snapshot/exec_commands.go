// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package snapshot

import (
	"errors"
	"fmt"
	"time"
)

// ExecCommands are the commands of Exec. They are noted in the journal, so that
// the snapshot can be removed by another run.
type ExecCommands struct {
	// Create and Remove make and remove a snapshot. With {disk} or {level} they are run for
	// each disk. {level} is how many levels lie over the snapshot's.
	Create Template `json:"create"`
	Remove Template `json:"remove"`

	// Machines, if set, prints a list of machines in which {vmid} is looked up:
	// that of vim-cmd vmsvc/getallvms.
	Machines Template `json:"machines,omitempty"`

	// List, if set, prints the snapshots. {snapshot} is the id of the one that is
	// called {name}: from a line "ID NAME", or as vim-cmd vmsvc/snapshot.get has it.
	List Template `json:"list,omitempty"`

	// Check, if set, fails if the snapshot has not held.
	Check Template `json:"check,omitempty"`

	Quiesced bool          `json:"quiesced,omitempty"` // Create freezes file systems
	Timeout  time.Duration `json:"timeout"`            // of each command
}

// ExecPreset returns the commands of a kind of host: esx2 (vmware-cmd) or esxi
// (vim-cmd, as of ESXi 5). ok is false if there is no such preset.
func ExecPreset(name string, quiesce bool) (c ExecCommands, ok bool) {
	switch name {
	case "esx2":
		// commit DISK LEVEL FREEZE WAIT: level 0 is the topmost.
		return ExecCommands{Create: "vmware-cmd {config} addredo {disk}", Remove: "vmware-cmd {config} commit {disk} {level} 0 1"}, true
	case "esxi":
		flag := "0"
		if quiesce {
			flag = "1"
		}
		return ExecCommands{
			Machines: "vim-cmd vmsvc/getallvms",
			Create:   Template("vim-cmd vmsvc/snapshot.create {vmid} {name} {id} 0 " + flag),
			List:     "vim-cmd vmsvc/snapshot.get {vmid}",
			Remove:   "vim-cmd vmsvc/snapshot.remove {vmid} {snapshot}",
			Quiesced: quiesce,
		}, true
	}
	return ExecCommands{}, false
}

// DefaultExecTimeout bounds a command if nobody says otherwise: removing a
// snapshot merges what was written meanwhile.
const DefaultExecTimeout = time.Hour

// Validate refuses commands that cannot do the work.
func (c *ExecCommands) Validate() error {
	if c.Create == "" || c.Remove == "" {
		return errors.New("a command that creates a snapshot and one that removes it are needed")
	}
	var errs []error
	for _, t := range []Template{c.Create, c.Remove, c.Machines, c.List, c.Check} {
		if t != "" {
			errs = append(errs, t.Validate())
		}
		if t.has("snapshot") && c.List == "" {
			errs = append(errs, fmt.Errorf("command %q: {snapshot} needs a command that lists snapshots", string(t)))
		}
		if t.has("vmid") && c.Machines == "" {
			errs = append(errs, fmt.Errorf("command %q: {vmid} needs a command that lists machines", string(t)))
		}
	}
	if c.Create.has("snapshot") || c.Create.has("level") {
		errs = append(errs, errors.New("{snapshot} and {level} are not known before there is a snapshot"))
	}
	return errors.Join(errs...)
}
