// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package scsi

import (
	"cmp"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// Address is where Linux sees a LUN: host adapter, channel, target and number.
type Address struct {
	Host, Channel, Target int
	LUN                   uint64
}

// ParseAddress reads H:C:T:L.
func ParseAddress(s string) (Address, error) {
	parts := strings.Split(s, ":")
	var a Address
	if len(parts) != 4 {
		return a, fmt.Errorf("%q: no address as in 2:0:1:3: %w", s, ErrNoDevice)
	}
	var err error
	for i, n := range []*int{&a.Host, &a.Channel, &a.Target} {
		if *n, err = strconv.Atoi(parts[i]); err != nil || *n < 0 {
			return Address{}, fmt.Errorf("%q: no address as in 2:0:1:3: %w", s, ErrNoDevice)
		}
	}
	if a.LUN, err = strconv.ParseUint(parts[3], 10, 64); err != nil {
		return Address{}, fmt.Errorf("%q: no address as in 2:0:1:3: %w", s, ErrNoDevice)
	}
	return a, nil
}

// String returns H:C:T:L.
func (a Address) String() string {
	return fmt.Sprintf("%d:%d:%d:%d", a.Host, a.Channel, a.Target, a.LUN)
}

// MarshalText returns H:C:T:L.
func (a Address) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

func (a Address) compare(b Address) int {
	return cmp.Or(cmp.Compare(a.Host, b.Host), cmp.Compare(a.Channel, b.Channel), cmp.Compare(a.Target, b.Target), cmp.Compare(a.LUN, b.LUN))
}

// Name is the name of ESX for a LUN at an adapter, and for what is on it.
type Name struct {
	Adapter, Channel, Target int
	LUN                      uint64
	Partition                int    // 0: the whole LUN
	File                     string // of the volume in the partition; "" for none
}

// esxName matches vmhbaA:T:L, :P and a file behind it, and vmhbaA:Cc:Tt:Ll, the same.
var esxName = regexp.MustCompile(`^vmhba(\d+):(?:C(\d+):T(\d+):L(\d+)|(\d+):(\d+))(?::(\d+)(?::(.+))?)?$`)

// ParseName reads a name of ESX: vmhba1:2:0, vmhba1:2:0:3 with a partition,
// vmhba1:2:0:3:web01.vmdk with a file, and vmhba1:C0:T2:L0 as hosts since ESX 4 write it;
// all of them also below /vmfs and /vmfs/devices/disks.
func ParseName(s string) (Name, error) {
	t := strings.TrimPrefix(strings.TrimPrefix(s, "/vmfs/devices/disks/"), "/vmfs/")
	m := esxName.FindStringSubmatch(t)
	if m == nil {
		return Name{}, fmt.Errorf("%q: no name of a LUN as in vmhba1:2:0:3: %w", s, ErrNoDevice)
	}
	var n Name
	n.File = m[8]
	for _, f := range []struct {
		to   *int
		text string
	}{{&n.Adapter, m[1]}, {&n.Channel, m[2]}, {&n.Target, m[3] + m[5]}, {&n.Partition, m[7]}} {
		v, err := strconv.Atoi(cmp.Or(f.text, "0"))
		if err != nil {
			return Name{}, fmt.Errorf("%q: %s: number too large: %w", s, f.text, ErrNoDevice)
		}
		*f.to = v
	}
	var err error
	if n.LUN, err = strconv.ParseUint(m[4]+m[6], 10, 64); err != nil {
		return Name{}, fmt.Errorf("%q: number of the LUN too large: %w", s, ErrNoDevice)
	}
	return n, nil
}

// LUNName returns the name without partition and file.
func (n Name) LUNName() Name {
	n.Partition, n.File = 0, ""
	return n
}

// String returns the name as ESX 2 and 3 write it, unless it has a channel.
func (n Name) String() string {
	s := fmt.Sprintf("vmhba%d:%d:%d", n.Adapter, n.Target, n.LUN)
	if n.Channel != 0 {
		s = fmt.Sprintf("vmhba%d:C%d:T%d:L%d", n.Adapter, n.Channel, n.Target, n.LUN)
	}
	if n.Partition != 0 || n.File != "" {
		s += fmt.Sprintf(":%d", n.Partition)
	}
	if n.File != "" {
		s += ":" + n.File
	}
	return s
}

// MarshalText returns the name as text.
func (n Name) MarshalText() ([]byte, error) { return []byte(n.String()), nil }
