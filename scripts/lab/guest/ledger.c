/*
 * A guest's ledger: counts from 1, each count first to both disks and then out to the network, and keeps account of
 * it in one page of memory. What a checkpoint has of that page says what its disks have to hold, and what may have
 * left. Run by ledger-init as `ledger PAUSE_MS`, with the pause between two counts.
 *
 *     memory   "REMUSDRBD-LEDGER" | issued 0 | done 0 | issued 1 | done 1 | sent      a page, u64 each
 *     xvda     the ledger of src/core/ledger.ts, token "count-K", block by block       issued 0 before, done 0 after
 *     xvdb     the same                                                               issued 1 before, done 1 after
 *     eth0     UDP to 255.255.255.255:9999: "REMUSDRBD-PACKET" | k                     sent before
 *
 * test/lab/ledger-format.ts reads all of it. Everything is little-endian. It ends when a disk is full.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { PAGE = 4096, BLOCK = 4096, ENTRY = 64, ENTRIES = BLOCK / ENTRY, DISKS = 2, PORT = 9999 };

struct page {
	char magic[16];
	struct {
		uint64_t issued;
		uint64_t done;
	} disk[DISKS];
	uint64_t sent;
};

struct entry {
	uint32_t magic;
	/* Of all that follows. */
	uint32_t crc32c;
	uint64_t count;
	char token[24];
	char zero[24];
};

struct packet {
	char magic[16];
	uint64_t count;
};

/* Stores in the order of the program: what a checkpoint sees is what had happened. */
#define SET(where, value) __atomic_store_n(&(where), (value), __ATOMIC_SEQ_CST)

static void rest(long ms)
{
	struct timespec time = { ms / 1000, ms % 1000 * 1000000 };
	while (nanosleep(&time, &time) < 0 && errno == EINTR)
		;
}

/* On the console, in one line, once there is one. */
static void say(const char *format, ...)
{
	FILE *console = fopen("/dev/hvc0", "w");
	if (!console)
		return;
	va_list arguments;
	va_start(arguments, format);
	vfprintf(console, format, arguments);
	va_end(arguments);
	fclose(console);
}

/* The devices come when their backends have answered. */
static int open_disk(int disk)
{
	char path[] = "/dev/xvd?";
	path[8] = (char)('a' + disk);
	for (;;) {
		int fd = open(path, O_RDWR | O_DIRECT);
		if (fd >= 0)
			return fd;
		rest(50);
	}
}

static int open_network(void)
{
	int fd = socket(AF_INET, SOCK_DGRAM, 0);
	int on = 1;
	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_BROADCAST, &on, sizeof on) < 0)
		return -1;
	while (setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, "eth0", 5) < 0)
		rest(50);
	return fd;
}

static void *page_of_memory(void)
{
	void *page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (page == MAP_FAILED || mlock(page, PAGE) < 0)
		return NULL;
	memset(page, 0, PAGE);
	return page;
}

/* Castagnoli, reflected (RFC 3720, B.4). */
static uint32_t crc32c(const void *from, size_t length)
{
	const uint8_t *bytes = from;
	uint32_t crc = 0xffffffff;
	for (size_t at = 0; at < length; at++) {
		crc ^= bytes[at];
		for (int bit = 0; bit < 8; bit++)
			crc = (crc >> 1) ^ (crc & 1 ? 0x82f63b78 : 0);
	}
	return ~crc;
}

/* Puts a count into its block, behind those before it. */
static void put_entry(struct entry *block, uint64_t count)
{
	size_t place = (count - 1) % ENTRIES;
	if (place == 0)
		memset(block, 0, BLOCK);
	struct entry *entry = &block[place];
	entry->magic = 0x31454c52;
	entry->count = count;
	snprintf(entry->token, sizeof entry->token, "count-%llu", (unsigned long long)count);
	entry->crc32c = crc32c(&entry->count, ENTRY - offsetof(struct entry, count));
}

int main(int argc, char **argv)
{
	long pause_ms = argc > 1 ? atol(argv[1]) : 50;
	struct sockaddr_in everyone = { .sin_family = AF_INET, .sin_port = htons(PORT) };
	everyone.sin_addr.s_addr = INADDR_BROADCAST;
	struct page *page = page_of_memory();
	struct entry *block = page_of_memory();
	int disks[DISKS];
	for (int disk = 0; disk < DISKS; disk++)
		disks[disk] = open_disk(disk);
	int network = open_network();
	if (!page || !block || network < 0) {
		say("ledger: failed: %s\n", strerror(errno));
		return 1;
	}
	/* In two pieces, so that no page of the program itself can look like the ledger's. */
	memcpy(page->magic, "REMUSDRBD-", 10);
	memcpy(page->magic + 10, "LEDGER", 6);
	struct packet packet;
	memcpy(packet.magic, "REMUSDRBD-PACKET", 16);
	say("ledger: counts every %ld ms\n", pause_ms);
	for (uint64_t count = 1;; count++) {
		put_entry(block, count);
		for (int disk = 0; disk < DISKS; disk++) {
			SET(page->disk[disk].issued, count);
			if (pwrite(disks[disk], block, BLOCK, (off_t)((count - 1) / ENTRIES) * BLOCK) != BLOCK) {
				say("ledger: failed: count %llu on disk %d: %s\n", (unsigned long long)count, disk,
				    strerror(errno));
				return 1;
			}
			SET(page->disk[disk].done, count);
		}
		SET(page->sent, count);
		packet.count = count;
		/* Before the interface has its address nothing can be sent, and nobody waits for it. */
		sendto(network, &packet, sizeof packet, MSG_DONTWAIT, (struct sockaddr *)&everyone, sizeof everyone);
		rest(pause_ms);
	}
}
