/*
 * A guest's ledger: counts from 1, each count first to both disks and then out to the network, and keeps account of
 * it in one page of memory. What a checkpoint has of that page says what its disks have to hold, and what may have
 * left. Run by ledger-init as `ledger PAUSE_MS [stray]`, with the pause between two counts.
 *
 * A client may connect and send lines, each a token of 1 to 23 printable characters. Each count takes one of them, in
 * turn, and when both disks have it the client is told `COUNT TOKEN`. With `stray`, each count also writes one block
 * behind the first half of xvda, at a place that no other run of the same count would take (the processor's clock):
 * a write that was discarded is then not done again by a guest that goes on from before it.
 *
 *     memory   "REMUSDRBD-LEDGER" | issued 0 | done 0 | issued 1 | done 1 | sent      a page, u64 each
 *     xvda     the ledger of src/core/ledger.ts, block by block, with a client's
 *              token or "count-K"                                                      issued 0 before, done 0 after
 *     xvdb     the same                                                               issued 1 before, done 1 after
 *     eth0     UDP to 255.255.255.255:9999: "REMUSDRBD-PACKET" | k, and the client's
 *              answer, from TCP port 9999                                              sent before
 *
 * test/lab/ledger-format.ts reads all of it. Everything is little-endian. It ends when a disk is full.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <net/if.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
#include <x86intrin.h>

enum { PAGE = 4096, BLOCK = 4096, ENTRY = 64, ENTRIES = BLOCK / ENTRY, DISKS = 2, PORT = 9999, TOKEN = 24, CLIENTS = 8 };

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
	char token[TOKEN];
	char zero[24];
};

struct packet {
	char magic[16];
	uint64_t count;
};

struct client {
	/* -1: nobody. */
	int fd;
	size_t length;
	char text[256];
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

/* Puts a count into its block, behind those before it. Without a token it gets one of its own. */
static void put_entry(struct entry *block, uint64_t count, const char *token)
{
	size_t place = (count - 1) % ENTRIES;
	if (place == 0)
		memset(block, 0, BLOCK);
	struct entry *entry = &block[place];
	entry->magic = 0x31454c52;
	entry->count = count;
	memset(entry->token, 0, sizeof entry->token);
	if (token)
		memcpy(entry->token, token, strnlen(token, sizeof entry->token));
	else
		snprintf(entry->token, sizeof entry->token, "count-%llu", (unsigned long long)count);
	entry->crc32c = crc32c(&entry->count, ENTRY - offsetof(struct entry, count));
}

static int listen_for_clients(uint16_t port)
{
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
	struct sockaddr_in here = { .sin_family = AF_INET, .sin_port = htons(port) };
	int on = 1;
	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) < 0)
		return -1;
	return bind(fd, (struct sockaddr *)&here, sizeof here) < 0 || listen(fd, CLIENTS) < 0 ? -1 : fd;
}

static void hang_up(struct client *client)
{
	close(client->fd);
	client->fd = -1;
}

/* Whoever has come; the one that has been silent longest may be a host that is no more. */
static void take_clients(int listener, struct client *clients)
{
	static size_t next;
	int fd;
	while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
		struct client *client = &clients[next++ % CLIENTS];
		if (client->fd >= 0)
			hang_up(client);
		client->fd = fd;
		client->length = 0;
	}
}

/* Reads what has come. Returns whether there is a whole line, which is then in `token`. */
static int take_line(struct client *client, char *token)
{
	if (client->fd < 0)
		return 0;
	ssize_t got = recv(client->fd, client->text + client->length, sizeof client->text - client->length, 0);
	int is_full = client->length == sizeof client->text;
	if (got > 0)
		client->length += (size_t)got;
	char *end = memchr(client->text, '\n', client->length);
	if (!end) {
		if (is_full || got == 0 || (got < 0 && errno != EAGAIN))
			hang_up(client);
		return 0;
	}
	size_t length = (size_t)(end - client->text);
	if (length == 0 || length >= TOKEN) {
		hang_up(client);
		return 0;
	}
	memcpy(token, client->text, length);
	token[length] = 0;
	client->length -= length + 1;
	memmove(client->text, end + 1, client->length);
	return 1;
}

/* The next line of any client, each in its turn. */
static struct client *next_request(struct client *clients, char *token)
{
	static size_t turn;
	for (size_t tried = 0; tried < CLIENTS; tried++) {
		struct client *client = &clients[turn++ % CLIENTS];
		if (take_line(client, token))
			return client;
	}
	return NULL;
}

static void answer(struct client *client, uint64_t count, const char *token)
{
	char text[64];
	int length = snprintf(text, sizeof text, "%llu %s\n", (unsigned long long)count, token);
	if (send(client->fd, text, (size_t)length, MSG_DONTWAIT | MSG_NOSIGNAL) != length)
		hang_up(client);
}

/* Writes a block somewhere in the second half of a disk. Returns whether it could. */
static int write_stray(int disk, uint64_t bytes, const struct entry *block)
{
	uint64_t blocks = bytes / BLOCK / 2;
	uint64_t place = blocks + __rdtsc() * 0x9e3779b97f4a7c15u % blocks;
	return pwrite(disk, block, BLOCK, (off_t)place * BLOCK) == BLOCK;
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
	uint64_t bytes = 0;
	int strays = argc > 2 && strcmp(argv[2], "stray") == 0 && ioctl(disks[0], BLKGETSIZE64, &bytes) == 0;
	int network = open_network();
	int listener = listen_for_clients(PORT);
	struct client clients[CLIENTS];
	for (int each = 0; each < CLIENTS; each++)
		clients[each].fd = -1;
	char token[TOKEN];
	if (!page || !block || network < 0 || listener < 0) {
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
		take_clients(listener, clients);
		struct client *asker = next_request(clients, token);
		put_entry(block, count, asker ? token : NULL);
		for (int disk = 0; disk < DISKS; disk++) {
			SET(page->disk[disk].issued, count);
			if (pwrite(disks[disk], block, BLOCK, (off_t)((count - 1) / ENTRIES) * BLOCK) != BLOCK) {
				say("ledger: failed: count %llu on disk %d: %s\n", (unsigned long long)count, disk,
				    strerror(errno));
				return 1;
			}
			SET(page->disk[disk].done, count);
		}
		if (strays && !write_stray(disks[0], bytes, block)) {
			say("ledger: failed: the stray block of count %llu: %s\n", (unsigned long long)count, strerror(errno));
			return 1;
		}
		SET(page->sent, count);
		packet.count = count;
		/* Before the interface has its address nothing can be sent, and nobody waits for it. */
		sendto(network, &packet, sizeof packet, MSG_DONTWAIT, (struct sockaddr *)&everyone, sizeof everyone);
		if (asker)
			answer(asker, count, token);
		rest(pause_ms);
	}
}
