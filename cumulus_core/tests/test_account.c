/* The account of a lease, in one process and in a child: what is taken counts, what is over the lease is refused. */
#define _GNU_SOURCE
#include "account.h"

#include <assert.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define MIB (1024u * 1024u)

static char directory[] = "/tmp/chronos-account-XXXXXX";

/* The limits as cumulus/chronos/enforce/account.py writes them. */
static void write_limits(uint64_t bytes, uint64_t deadline) {
    char path[64];
    int32_t numbers[2] = {0, 1};
    uint8_t uuid[UUID_BYTES] = {7};
    snprintf(path, sizeof path, "%s/limits", directory);
    int file = open(path, O_WRONLY | O_CREAT, 0600);
    assert(file >= 0);
    assert(write(file, "CHRLIM1", 8) == 8);
    assert(write(file, &bytes, sizeof bytes) == sizeof bytes);
    assert(write(file, &deadline, sizeof deadline) == sizeof deadline);
    assert(write(file, numbers, sizeof numbers) == sizeof numbers);
    assert(write(file, uuid, sizeof uuid) == sizeof uuid);
    close(file);
    snprintf(path, sizeof path, "%s/usage", directory);
    file = open(path, O_RDWR | O_CREAT, 0600);
    assert(file >= 0);
    close(file);
}

static void remove_all(void) {
    char command[96];
    snprintf(command, sizeof command, "rm -r %s", directory);
    assert(system(command) == 0);
}

int main(void) {
    charge first, second;
    int platform, device, status;

    assert(mkdtemp(directory));
    write_limits(100 * MIB, UINT64_MAX);
    setenv("CHRONOS_ACCOUNT", directory, 1);
    accounts_open();
    assert(accounts_count() == 1);
    assert(account_limit(0) == 100 * MIB);
    account_device(0, &platform, &device);
    assert(platform == 0 && device == 1);
    assert(account_uuid(0)[0] == 7);

    assert(account_take(1, 60 * MIB, &first));
    assert(account_used(0) == 60 * MIB);
    assert(!account_take(1, 41 * MIB, &second)); /* more than is left: nothing is taken */
    assert(account_used(0) == 60 * MIB);

    pid_t child = fork();
    assert(child >= 0);
    if (child == 0) {
        account_give(&first); /* its parent's: not its to give back */
        if (account_used(0) != 60 * MIB || !account_take(1, 40 * MIB, &second)) _exit(1);
        _exit(account_take(1, 1, &first) ? 2 : 0);
    }
    assert(waitpid(child, &status, 0) == child);
    assert(WIFEXITED(status) && WEXITSTATUS(status) == 0);

    assert(account_take(1, 40 * MIB, &second)); /* what the dead child had is free again */
    account_give(&second);
    account_give(&first);
    assert(account_used(0) == 0);

    assert(!accounts_expired());
    write_limits(100 * MIB, 1); /* as a lease that is over */
    assert(accounts_expired());
    assert(!account_take(1, 1, &first));
    remove_all();
    return 0;
}
