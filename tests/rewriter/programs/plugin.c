// SPDX-License-Identifier: GPL-2.0-or-later
/* A library with sites, to be opened at run time. */
static long counter;

long bump(long by)
{
	long before = __atomic_fetch_add(&counter, by, __ATOMIC_SEQ_CST);
	__atomic_exchange_n(&counter, before + by, __ATOMIC_SEQ_CST);
	return counter;
}
