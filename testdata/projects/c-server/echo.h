#ifndef ECHO_H
#define ECHO_H
#include <stddef.h>
/* Writes the answer to a request line into `out`; returns its length, or -1 where there is no room. */
int answer(const char *request, char *out, size_t room);
#endif
