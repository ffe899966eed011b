/*
 * Run a table of system calls: long run(struct entry *table, long count)
 *
 *     struct entry { long number, arguments[6], references, result; };   (9 words)
 *
 * Bit i of `references` says that argument i is the index of an earlier entry, whose result is
 * meant. Bit 8 says that an error is expected and passed over. Returns `count`, or the index of the
 * entry that failed. guest/script.py holds the bytes; tests/unit/guest assembles this file again.
 */
#if defined(__x86_64__)
        .text
        push    %rbx
        push    %rbp
        push    %r12
        push    %r13
        mov     %rdi, %rbx              /* table */
        mov     %rdi, %rbp              /* entry */
        mov     %rsi, %r12              /* count */
        xor     %r13d, %r13d            /* index */
next:   cmp     %r12, %r13
        jge     done
        xor     %ecx, %ecx
refer:  bt      %rcx, 56(%rbp)
        jnc     plain
        mov     8(%rbp,%rcx,8), %rax
        imul    $72, %rax, %rax
        mov     64(%rbx,%rax), %rax
        mov     %rax, 8(%rbp,%rcx,8)
plain:  inc     %ecx
        cmp     $6, %ecx
        jl      refer
        mov     (%rbp), %rax
        mov     8(%rbp), %rdi
        mov     16(%rbp), %rsi
        mov     24(%rbp), %rdx
        mov     32(%rbp), %r10
        mov     40(%rbp), %r8
        mov     48(%rbp), %r9
        syscall
        mov     %rax, 64(%rbp)
        test    %rax, %rax
        jns     good
        testb   $1, 57(%rbp)
        jz      done
good:   add     $72, %rbp
        inc     %r13
        jmp     next
done:   mov     %r13, %rax
        pop     %r13
        pop     %r12
        pop     %rbp
        pop     %rbx
        ret
#elif defined(__aarch64__)
        .text
        mov     x9, x0                  /* table */
        mov     x10, x0                 /* entry */
        mov     x11, x1                 /* count */
        mov     x12, #0                 /* index */
        mov     x13, #72
next:   cmp     x12, x11
        b.ge    done
        ldr     x14, [x10, #56]
        mov     x15, #0
refer:  lsr     x16, x14, x15
        tbz     x16, #0, plain
        add     x17, x10, x15, lsl #3
        ldr     x16, [x17, #8]
        madd    x16, x16, x13, x9
        ldr     x16, [x16, #64]
        str     x16, [x17, #8]
plain:  add     x15, x15, #1
        cmp     x15, #6
        b.lt    refer
        ldr     x8, [x10]
        ldp     x0, x1, [x10, #8]
        ldp     x2, x3, [x10, #24]
        ldp     x4, x5, [x10, #40]
        svc     #0
        str     x0, [x10, #64]
        tbz     x0, #63, good
        tbz     x14, #8, done
good:   add     x10, x10, #72
        add     x12, x12, #1
        b       next
done:   mov     x0, x12
        ret
#endif
