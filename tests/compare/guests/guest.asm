; One workload as a bare 64-bit guest: a flat ELF32 file with a Multiboot 1 header that any Multiboot loader, or boot.asm, puts at
; 1 MiB. It switches to long mode with the first 128 MiB identity mapped in 4 KiB pages, runs the workload, prints
; "done NAME INSTRUCTIONS" on COM1, and ends by isa-debug-exit (port 0xf4) or, on Bochs, by the word "Shutdown" on port 0x8900.
;
;   nasm -f bin -DWORKLOAD=alu [-DSCALE=10] -o alu.elf guest.asm
;
; A workload is a file WORKLOAD.inc with the macro `workload`, which leaves in R15 the instructions that it ran. It may use every
; register and the 64 MiB from DATA on.

%ifndef SCALE
%define SCALE 1                   ; how many times as many rounds
%endif
%define LOAD 0x100000
%define TABLES 0x200000
%define STACK 0x180000
%define DATA 0x1000000
%define MAPPED_MIB 128
%define COM1 0x3f8

%defstr NAME WORKLOAD
%strcat SOURCE NAME, ".inc"

bits 32
org LOAD
; ELF32 header and one program header (System V ABI, chapters 4 and 5).
file:
    db 0x7f, "ELF", 1, 1, 1, 0
    dq 0
    dw 2, 3                     ; executable, i386
    dd 1, start, program - file, 0, 0
    dw 52, 32, 1, 0, 0, 0
program:
    dd 1, 0, LOAD, LOAD, end - file, end - file, 7, 0x1000
align 4
    dd 0x1BADB002, 0, -0x1BADB002 ; Multiboot 1: magic, flags, checksum

start:
    cli
    cld
    mov esp, STACK
    ; PML4 and PDPT with one entry each, one page directory, MAPPED_MIB / 2 page tables.
    mov edi, TABLES
    xor eax, eax
    mov ecx, (3 + MAPPED_MIB / 2) * 1024
    rep stosd
    mov dword [TABLES], TABLES + 0x1000 + 3
    mov dword [TABLES + 0x1000], TABLES + 0x2000 + 3
    mov edi, TABLES + 0x2000
    mov eax, TABLES + 0x3000 + 3
    mov ecx, MAPPED_MIB / 2
.directory:
    mov [edi], eax
    add eax, 0x1000
    add edi, 8
    loop .directory
    mov edi, TABLES + 0x3000
    mov eax, 3
    mov ecx, MAPPED_MIB * 256
.table:
    mov [edi], eax
    add eax, 0x1000
    add edi, 8
    loop .table
    ; SDM volume 3, "Initializing IA-32e Mode": PAE, CR3, EFER.LME, CR0.PG; and CR4.OSFXSR for SSE.
    mov eax, cr4
    or eax, (1 << 5) | (1 << 9) | (1 << 10)
    mov cr4, eax
    mov eax, TABLES
    mov cr3, eax
    mov ecx, 0xC0000080
    rdmsr
    or eax, 1 << 8
    wrmsr
    mov eax, cr0
    and eax, ~((1 << 2) | (1 << 30) | (1 << 29)) ; EM, CD, NW
    or eax, 0x80000003
    mov cr0, eax
    lgdt [gdt.pointer]
    jmp 8:long_mode

align 8
gdt:
    dq 0, 0x00AF9A000000FFFF, 0x00CF92000000FFFF   ; code and data
    dq 0x00CFF2000000FFFF, 0x00AFFA000000FFFF      ; the user's data and code, in the order that SYSRET wants
.pointer:
    dw $ - gdt - 1
    dd gdt

bits 64
default rel

%include SOURCE

long_mode:
    mov ax, 16
    mov ds, ax
    mov es, ax
    mov ss, ax
    mov rsp, STACK
    workload
    ; 16550: 115200 baud, 8 bits, no parity, polled.
    lea rsi, [uart_settings]
    mov ecx, 5
    xor edx, edx
.setting:
    lodsw
    mov dl, al
    add dx, COM1
    mov al, ah
    out dx, al
    xor edx, edx
    loop .setting
    lea rsi, [text_done]
    call print
    mov rax, r15
    call print_decimal
    lea rsi, [text_end]
    call print
    mov dx, COM1 + 5
.flush:
    in al, dx
    test al, 0x40                 ; transmitter empty
    jz .flush
    mov al, 0x10
    out 0xf4, al
    lea rsi, [text_shutdown]
    mov dx, 0x8900
.shutdown:
    lodsb
    out dx, al
    test al, al
    jnz .shutdown
.stop:
    hlt
    jmp .stop

; Prints the text at RSI up to a zero byte.
print:
    mov dx, COM1 + 5
.wait:
    in al, dx
    test al, 0x20
    jz .wait
    lodsb
    test al, al
    jz .end
    mov dx, COM1
    out dx, al
    jmp print
.end:
    ret

; Prints RAX in decimal.
print_decimal:
    lea rsi, [digits + 20]
    mov rcx, 10
.digit:
    xor edx, edx
    div rcx
    add dl, '0'
    dec rsi
    mov [rsi], dl
    test rax, rax
    jnz .digit
    jmp print

uart_settings:                    ; register, value
    db 1, 0, 3, 0x80, 0, 1, 1, 0, 3, 3
text_done:
    db "done ", NAME, " ", 0
text_end:
    db 10, 0
text_shutdown:
    db "Shutdown", 0
digits:
    times 21 db 0
align 16
end:
