/*
 * eversock for C source that was written for plain sockets: compile it unchanged with
 *
 *     cc -include eversock_posix.h ... server.c -leversock
 *
 * Each call on sockets gets its eversock twin; TCP sockets become virtual, everything else stays as
 * it was. Sockets are direct, since the waits are mapped as well. Define EVERSOCK_POSIX_PUMPED for
 * pumped ones, if descriptors also go to code that is not compiled with this header (a library with
 * an event loop of its own, stdio over fdopen, splice, sendmmsg, epoll_pwait2).
 *
 * WHY OBJECT-LIKE MACROS
 *   `#define connect evs_connect` renames the word wherever it stands: calls, function pointers
 *   (`ops.close = close`), and also members and variables of that name, consistently, in all that is
 *   compiled after this header; the layout of structures does not change. A function-like macro
 *   would miss the function pointers, which would then close or read a virtual socket behind the
 *   library's back, and break each `ops->close(fd)`. What remains visible: the words in debuggers,
 *   `#name` in macros, and members of structures that system headers included below declare (none
 *   of them has such a member).
 *
 *   So this header must come first, which -include does, and in every file that shares structures
 *   with such members only by layout it may be left out. C++ is refused: member functions of the
 *   standard library, such as std::fstream::close, live in a compiled library under their own names.
 *   Use eversock.h there.
 *
 * FEATURE TEST MACROS
 *   System headers are read before the source can ask for features. Unless the command line defines
 *   one of _GNU_SOURCE, _DEFAULT_SOURCE, _POSIX_C_SOURCE and _XOPEN_SOURCE, this header asks for all
 *   (_GNU_SOURCE) and takes the macros back at its end, so that the source may still define them.
 */
#ifndef EVERSOCK_POSIX_H
#define EVERSOCK_POSIX_H

#ifdef __cplusplus
#error "eversock_posix.h is for C; in C++ call the evs_ functions of eversock.h"
#endif

#if !defined(_GNU_SOURCE) && !defined(_DEFAULT_SOURCE) && !defined(_POSIX_C_SOURCE) && \
    !defined(_XOPEN_SOURCE)
#define _GNU_SOURCE 1
#define EVERSOCK_POSIX_TAKES_BACK
#endif

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/select.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

#include "eversock.h"

#ifdef EVERSOCK_POSIX_TAKES_BACK
#undef EVERSOCK_POSIX_TAKES_BACK
#undef _GNU_SOURCE
#undef _DEFAULT_SOURCE
#undef _POSIX_SOURCE
#undef _POSIX_C_SOURCE
#undef _XOPEN_SOURCE
#undef _XOPEN_SOURCE_EXTENDED
#endif

#undef accept
#undef accept4
#undef bind
#undef close
#undef connect
#undef dup
#undef dup2
#undef dup3
#undef epoll_ctl
#undef epoll_pwait
#undef epoll_wait
#undef fcntl
#undef getpeername
#undef getsockname
#undef getsockopt
#undef ioctl
#undef listen
#undef poll
#undef ppoll
#undef pselect
#undef read
#undef readv
#undef recv
#undef recvfrom
#undef recvmsg
#undef select
#undef send
#undef sendfile
#undef sendmsg
#undef sendto
#undef setsockopt
#undef shutdown
#undef socket
#undef write
#undef writev

#define accept evs_accept
#define accept4 evs_accept4
#define bind evs_bind
#define close evs_close
#define connect evs_connect
#define dup evs_dup
#define dup2 evs_dup2
#define dup3 evs_dup3
#define epoll_ctl evs_epoll_ctl
#define epoll_pwait evs_epoll_pwait
#define epoll_wait evs_epoll_wait
#define fcntl evs_fcntl
#define getpeername evs_getpeername
#define getsockname evs_getsockname
#define getsockopt evs_getsockopt
#define ioctl evs_ioctl
#define listen evs_listen
#define poll evs_poll
#define ppoll evs_ppoll
#define pselect evs_pselect
#define read evs_read
#define readv evs_readv
#define recv evs_recv
#define recvfrom evs_recvfrom
#define recvmsg evs_recvmsg
#define select evs_select
#define send evs_send
#define sendfile evs_sendfile
#define sendmsg evs_sendmsg
#define sendto evs_sendto
#define setsockopt evs_setsockopt
#define shutdown evs_shutdown
#ifdef EVERSOCK_POSIX_PUMPED
#define socket evs_socket
#else
#define socket evs_posix_socket
#endif
#define write evs_write
#define writev evs_writev

#endif /* EVERSOCK_POSIX_H */
