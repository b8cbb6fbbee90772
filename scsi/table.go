// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package scsi

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
)

// Table keeps which ids the names of ESX stand for, so that a name means the same LUN
// when that is presented elsewhere. Its text has a name and an id on each line:
//
//	vmhba1:2:0  naa.600140500000000a  # datastore1
type Table struct{ entries []TableEntry }

// TableEntry is a name and the LUN that it stands for.
type TableEntry struct {
	Name Name
	ID   ID
	Note string // what is behind a # on the line
}

// Bounds of a table's text.
const (
	maxTableLines = 1 << 16
	maxTableLine  = 4 << 10
)

// ReadTable reads the text of a table. A name may stand there once.
func ReadTable(r io.Reader) (*Table, error) {
	t := &Table{}
	s := bufio.NewScanner(r)
	s.Buffer(nil, maxTableLine)
	seen := map[Name]bool{}
	for line := 1; s.Scan(); line++ {
		if line > maxTableLines {
			return nil, fmt.Errorf("more than %d lines", maxTableLines)
		}
		text, note, _ := strings.Cut(s.Text(), "#")
		f := strings.Fields(text)
		if len(f) == 0 {
			continue
		}
		if len(f) == 1 {
			return nil, fmt.Errorf("line %d: write a name and an id, such as vmhba1:2:0 naa.600…", line)
		}
		name, err := ParseName(f[0])
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", line, err)
		}
		// An id by vendor has blanks.
		id, err := ParseID(strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(text), f[0])))
		switch {
		case err != nil:
			return nil, fmt.Errorf("line %d: %w", line, err)
		case name != name.LUNName():
			return nil, fmt.Errorf("line %d: %v: name a LUN, without a partition", line, name)
		case seen[name]:
			return nil, fmt.Errorf("line %d: %v is there twice", line, name)
		}
		seen[name] = true
		t.entries = append(t.entries, TableEntry{name, id, strings.TrimSpace(note)})
	}
	return t, s.Err()
}

// WriteTo writes the text of the table in the order of names.
func (t *Table) WriteTo(w io.Writer) (int64, error) {
	entries := slices.SortedFunc(slices.Values(t.entries), func(a, b TableEntry) int {
		return a.Name.address().compare(b.Name.address())
	})
	var b strings.Builder
	b.WriteString("# Which LUNs the names of ESX stand for. A LUN is told by its id.\n")
	for _, e := range entries {
		fmt.Fprintf(&b, "%-16v %s", e.Name, e.ID)
		if e.Note != "" {
			b.WriteString("  # " + e.Note)
		}
		b.WriteByte('\n')
	}
	n, err := io.WriteString(w, b.String())
	return int64(n), err
}

// address is where Linux sees the LUN with that name if adapters have the same numbers.
func (n Name) address() Address { return Address{n.Adapter, n.Channel, n.Target, n.LUN} }

// Learn adds the LUNs whose ids the table does not have, under the names of their
// addresses, or the next free number where such a name is taken. It returns how many
// it has added. What the table has stays as it is.
func (t *Table) Learn(luns []LUN) int {
	names, ids := map[Name]bool{}, map[ID]bool{}
	for _, e := range t.entries {
		names[e.Name], ids[e.ID] = true, true
	}
	added := 0
	for i := range luns {
		l := &luns[i]
		if l.Type != TypeDisk || l.ID == "" || ids[l.ID] {
			continue
		}
		n := Name{Adapter: l.Address.Host, Channel: l.Address.Channel, Target: l.Address.Target, LUN: l.Address.LUN}
		for names[n] {
			n.LUN++
		}
		names[n], ids[l.ID] = true, true
		t.entries = append(t.entries, TableEntry{n, l.ID, strings.TrimSpace(l.Vendor + " " + l.Model)})
		added++
	}
	return added
}

// Name has each LUN carry the names that the table has for it.
func (t *Table) Name(luns []LUN) {
	for i := range luns {
		luns[i].Names = nil
		for _, e := range t.entries {
			if e.ID == luns[i].ID && e.ID != "" {
				luns[i].Names = append(luns[i].Names, e.Name)
			}
		}
	}
}

// ErrAmbiguous says that several LUNs are meant.
var ErrAmbiguous = errors.New("more than one LUN")

// Find returns the LUN that is meant: by its id, by a name of ESX, by the address that
// Linux has for it, or by its node. A name of ESX means what the table says; without a
// table (nil) it is the address of the adapter with that number. One of several paths to
// the same LUN is returned, one that works before others.
func Find(s string, luns []LUN, t *Table) (*LUN, error) {
	if name, err := ParseName(s); err == nil {
		return findName(name.LUNName(), luns, t)
	}
	if a, err := ParseAddress(s); err == nil {
		return pick(s, luns, func(l *LUN) bool { return l.Address == a })
	}
	if id, err := ParseID(s); err == nil {
		return pick(s, luns, func(l *LUN) bool { return slices.Contains(l.IDs, id) })
	}
	node := s
	if real, err := filepath.EvalSymlinks(s); err == nil {
		node = real
	}
	return pick(s, luns, func(l *LUN) bool { return node == l.Node || node == l.Generic })
}

func findName(name Name, luns []LUN, t *Table) (*LUN, error) {
	if t == nil {
		return pick(name.String(), luns, func(l *LUN) bool { return l.Address == name.address() })
	}
	for _, e := range t.entries {
		if e.Name == name {
			l, err := pick(string(e.ID), luns, func(l *LUN) bool { return slices.Contains(l.IDs, e.ID) })
			if err != nil {
				return nil, fmt.Errorf("%v: %w", name, err)
			}
			return l, nil
		}
	}
	return nil, fmt.Errorf("%v: the table does not have this name: %w", name, ErrNoDevice)
}

// pick returns the LUN for which is holds. They must be paths to one LUN.
func pick(s string, luns []LUN, is func(*LUN) bool) (*LUN, error) {
	var found *LUN
	for i := range luns {
		l := &luns[i]
		switch {
		case !is(l):
		case found == nil:
			found = l
		case l.ID == "" || l.ID != found.ID:
			return nil, fmt.Errorf("%s: %v and %v: %w", s, found.Address, l.Address, ErrAmbiguous)
		case found.State != "running" && l.State == "running":
			found = l
		}
	}
	if found == nil {
		return nil, fmt.Errorf("%s: %w", s, ErrNoDevice)
	}
	return found, nil
}
