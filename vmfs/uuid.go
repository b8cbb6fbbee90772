// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vmfs

import (
	"encoding/binary"
	"fmt"
)

// UUID names volumes, devices and hosts. Its last six bytes are a MAC address of the
// host that made it.
type UUID [16]byte

// IsZero reports if there is none.
func (u UUID) IsZero() bool { return u == UUID{} }

// String returns the text that ESX uses, such as
// 49edf844-ebfc28f3-65cb-0021280083cf.
func (u UUID) String() string {
	return fmt.Sprintf("%08x-%08x-%04x-%x",
		binary.LittleEndian.Uint32(u[0:]), binary.LittleEndian.Uint32(u[4:]), binary.LittleEndian.Uint16(u[8:]), u[10:16])
}

// MarshalText is String.
func (u UUID) MarshalText() ([]byte, error) { return []byte(u.String()), nil }

// MAC returns the MAC address in the UUID.
func (u UUID) MAC() string {
	return fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", u[10], u[11], u[12], u[13], u[14], u[15])
}
