/*
 * Pid 1 of a sandbox: closes what it inherited, ignores SIGCHLD (so that orphans are reaped without
 * a wait), and sleeps for ever. It runs in the fork server's memory, on one shared page of stack
 * that it never writes to, so a sandbox's init costs a task structure and nothing else.
 *
 * guest/tinyinit.py holds the bytes; tests/unit/guest/test_tinyinit.py assembles this file again.
 */
#if defined(__x86_64__)
        .text
        mov     $436, %eax              /* close_range(0, ~0, 0) */
        xor     %edi, %edi
        mov     $-1, %esi
        xor     %edx, %edx
        syscall
        mov     $157, %eax              /* prctl(PR_SET_NAME, "saggar-init") */
        mov     $15, %edi
        lea     name(%rip), %rsi
        syscall
        mov     $13, %eax               /* rt_sigaction(SIGCHLD, {SIG_IGN}, NULL, 8) */
        mov     $17, %edi
        lea     ignore(%rip), %rsi
        xor     %edx, %edx
        mov     $8, %r10d
        syscall
again:  mov     $271, %eax              /* ppoll(NULL, 0, NULL, NULL, 8) */
        xor     %edi, %edi
        xor     %esi, %esi
        xor     %edx, %edx
        xor     %r10d, %r10d
        mov     $8, %r8d
        syscall
        jmp     again
        .balign 8
#elif defined(__aarch64__)
        .text
        mov     x8, #436
        mov     x0, #0
        mov     w1, #-1
        mov     x2, #0
        svc     #0
        mov     x8, #167
        mov     x0, #15
        adr     x1, name
        svc     #0
        mov     x8, #134
        mov     x0, #17
        adr     x1, ignore
        mov     x2, #0
        mov     x3, #8
        svc     #0
again:  mov     x8, #73
        mov     x0, #0
        mov     x1, #0
        mov     x2, #0
        mov     x3, #0
        mov     x4, #8
        svc     #0
        b       again
        .balign 8
#endif
ignore: .quad   1, 0, 0, 0
name:   .asciz  "saggar-init"
