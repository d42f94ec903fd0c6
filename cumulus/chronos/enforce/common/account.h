/*
 * The account of a lease: how much of its memory is in use, over all of the lease's processes.
 *
 * Two files in one directory per lease (CHRONOS_ACCOUNT names the directories, separated by colons):
 *   limits  written by Chronos alone, mapped read-only: size, end, device. Renewing a lease rewrites it in place.
 *   usage   shared by the lease's processes: one slot each, guarded by a robust mutex.
 *
 * What is in use is the sum over the slots, never a running total: clearing a dead process's slot gives back
 * exactly what it had. Both layouts are read by cumulus/chronos/enforce/account.py as well.
 */
#ifndef CHRONOS_ACCOUNT_H
#define CHRONOS_ACCOUNT_H

#include <stdbool.h>
#include <stdint.h>

#define MAX_LEASES 16
#define UUID_BYTES 16

/* A set of the process's leases: bit i is lease i. */
typedef uint32_t lease_set;

/* What one allocation took, for giving exactly that back. */
typedef struct {
    lease_set leases;
    uint32_t generation;
    uint64_t bytes;
} charge;

/* Opens the accounts that CHRONOS_ACCOUNT names, once. An account that can't be used refuses everything. */
void accounts_open(void);

unsigned accounts_count(void);

/* The OpenCL platform and device numbers of lease `index`, -1 where Chronos does not know them. */
void account_device(unsigned index, int *platform, int *device);

/* The UUID_BYTES of its device as cl_khr_device_uuid tells them, NULL where Chronos does not know them. */
const uint8_t *account_uuid(unsigned index);

uint64_t account_limit(unsigned index);
uint64_t account_used(unsigned index);

/* Whether any lease of this process is past its end (CLOCK_BOOTTIME). */
bool accounts_expired(void);

/* How a process allocates, as far as it matters for moving it into main memory. Noted for its life. */
#define ALLOCATES_MANAGED 1u /* managed memory */
#define ALLOCATES_SHARED 2u  /* what another process reaches too, or what another process made */
#define ALLOCATES_PEER 4u    /* reaches another device's memory */
#define ALLOCATES_MAPPED 8u  /* physical memory that it maps itself (cuMemCreate) */

/* Notes it on the accounts of all leases of this process. Before the driver is asked. */
void account_note(uint32_t how);

/* Takes `bytes` of every lease in the set, or nothing. False when one has not so much left or is past its end. */
bool account_take(lease_set leases, uint64_t bytes, charge *taken);

/* Gives back what was taken by this process; what a parent took before a fork is the parent's and is left alone. */
void account_give(const charge *taken);

/* Begins a charge of nothing, for `account_settle`. */
void account_charge(lease_set leases, charge *begun);

/* Makes the charge one of `bytes`, whatever the limit: for what the driver holds already. */
void account_settle(charge *of, uint64_t bytes);

/* Whether more of one of the leases is in use than there is. */
bool account_over(lease_set leases);

/* What this process has taken of the lease, through every library that counts. */
uint64_t account_own(unsigned index);

/* Says once per process and reason on stderr why something was refused: OpenCL's error codes say little. */
void account_explain_expiry(const char *what);

#endif
