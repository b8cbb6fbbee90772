// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package scsi

import "fmt"

// alertNames are the TapeAlert flags of drives, as SSC-4 has them, in short.
var alertNames = map[int]string{
	1: "trouble reading", 2: "trouble writing", 3: "errors that could not be corrected", 4: "the tape is worn or damaged: copy it",
	5: "read failure: drive or tape", 6: "write failure: drive or tape", 7: "the tape has reached the end of its life",
	8: "the tape is not good enough for data", 9: "the tape is write-protected", 10: "the tape cannot be ejected: it is in use",
	11: "a cleaning cartridge is in the drive", 12: "the tape is of a kind that the drive does not know",
	13: "the tape broke: it can be ejected", 14: "the tape broke: it cannot be ejected", 15: "the memory in the cartridge has failed",
	16: "the tape was ejected while it was in use", 17: "the tape can only be read in this drive",
	18: "the directory on the tape is damaged", 19: "the tape will soon have reached the end of its life",
	20: "clean the drive now", 21: "clean the drive soon", 22: "the cleaning cartridge is used up", 23: "this cleaning cartridge does not fit the drive",
	24: "the tape should be wound once", 25: "a redundant port has failed", 26: "a fan is failing", 27: "the power supply has failed",
	28: "too much power is used", 29: "preventive maintenance is due", 30: "hardware failure A: reset the drive", 31: "hardware failure B: the drive failed its self-test",
	32: "trouble on the interface to the host", 33: "eject the tape and load it again", 34: "loading firmware has failed",
	35: "humidity is out of bounds", 36: "temperature is out of bounds", 37: "voltage is out of bounds", 38: "the drive will fail",
	39: "diagnostics are needed", 40: "changer: hardware A", 41: "changer: a tape was left in the drive", 42: "changer: hardware B",
	43: "changer: the door is open", 44: "changer: hardware C", 45: "changer: the magazine is missing", 46: "changer: it will fail",
	49: "the tape holds less than it should", 50: "statistics were lost", 51: "the directory on the tape was invalid when it was unloaded",
	52: "the system area of the tape could not be written", 53: "the system area of the tape could not be read",
	54: "the begin of the data was not found", 55: "the tape could not be loaded", 56: "the tape could not be unloaded",
	57: "the interface to the changer has failed", 58: "the firmware has failed", 59: "write-once tape: its integrity check failed",
	60: "write-once tape: to overwrite it was tried",
}

// TapeAlert returns what a flag of [Device.TapeAlerts] says.
func TapeAlert(n int) string {
	if s := alertNames[n]; s != "" {
		return s
	}
	return fmt.Sprintf("flag %d", n)
}
