; A boot disk for emulators that load no kernel themselves: a boot sector and a loader that read the kernel through the BIOS.
; The loader says "loader: go" on COM1 before it jumps, so that reading the disk can be left out of a measurement.
;
; A flat guest (guest.asm):  nasm -f bin -DGUEST='"alu.elf"' -o alu.img boot.asm
; Linux, 16-bit protocol:    nasm -f bin -DKERNEL='"vmlinuz"' -DINITRD='"initrd"' -DAPPEND='"console=ttyS0"' -DSETUP_SECTORS=27 \
;                                 -DINITRD_BYTES=1234 -DINITRD_ADDRESS=0x8000000 -o linux.img boot.asm
;
; The image is padded to whole cylinders of 16 heads with 63 sectors.

%define LOADER 0x8000
%define LOADER_SECTORS 4
%define BUFFER 0x10000            ; 32 KiB below the loader's stack, where sectors are read to
%define CHUNK 64                  ; sectors read at a time
%define COM1 0x3f8

bits 16
org 0x7c00
    jmp 0:.start
.start:
    xor ax, ax
    mov ds, ax
    mov es, ax
    mov ss, ax
    mov sp, 0x7c00
    mov [LOADER - 2], dl          ; the drive, for the loader
    mov si, .packet
    mov ah, 0x42
    int 0x13
    jc .failed
    jmp 0:LOADER
.failed:
    hlt
    jmp .failed
align 4
.packet:                          ; disk address packet of the extended read (EDD)
    dw 16, LOADER_SECTORS, LOADER, 0
    dq 1
times 510 - ($ - $$) db 0
    dw 0xaa55

section loader vstart=LOADER follows=.text align=512
%ifdef GUEST
    call read_chunk
    call go
    cli
    lgdt [gdt_pointer]
    mov eax, cr0
    or al, 1
    mov cr0, eax
    jmp 8:flat
bits 32
flat:
    mov ax, 16
    mov ds, ax
    mov es, ax
    mov ss, ax
    mov esi, BUFFER
    mov edi, 0x100000
    mov ecx, CHUNK * 512 / 4
    rep movsd
    jmp [BUFFER + 0x18]           ; e_entry
bits 16
%else
    ; The setup code goes to 0x90000 (Documentation/x86/boot.rst, "Memory Layout").
    mov word [packet.segment], 0x9000
    mov word [packet.count], SETUP_SECTORS
    call read
    mov ax, 0x9000
    mov es, ax
    mov byte [es:0x210], 0xff     ; type_of_loader: undefined
    or byte [es:0x211], 0x80      ; loadflags: CAN_USE_HEAP
    mov word [es:0x224], 0xde00   ; heap_end_ptr
    mov dword [es:0x228], 0x9e000 ; cmd_line_ptr
    mov dword [es:0x218], INITRD_ADDRESS
    mov dword [es:0x21c], INITRD_BYTES
    mov si, command_line
    mov di, 0xe000
    mov cx, command_line.end - command_line
    rep movsb
    mov dword [packet.sector], (kernel - payload) / 512 + 1 + LOADER_SECTORS
    mov ecx, (kernel.end - kernel + CHUNK * 512 - 1) / (CHUNK * 512)
    mov edi, 0x100000
    call load_high
    mov dword [packet.sector], (initrd - payload) / 512 + 1 + LOADER_SECTORS
    mov ecx, (initrd.end - initrd + CHUNK * 512 - 1) / (CHUNK * 512)
    mov edi, INITRD_ADDRESS
    call load_high
    call go
    cli
    mov ax, 0x9000
    mov ds, ax
    mov es, ax
    mov fs, ax
    mov gs, ax
    mov ss, ax
    mov sp, 0xde00
    jmp 0x9020:0

; Reads ECX chunks from packet.sector on and moves them to EDI on.
load_high:
    push ecx
    call read_chunk
    ; Interrupt 15h function 87h moves a block through a table of descriptors: source is the third, destination the fourth.
    mov eax, edi
    mov [move.to + 2], ax
    shr eax, 16
    mov [move.to + 4], al
    mov [move.to + 7], ah
    push edi
    xor ax, ax
    mov es, ax
    mov si, move
    mov cx, CHUNK * 512 / 2
    mov ah, 0x87
    int 0x15
    jc failed
    pop edi
    add edi, CHUNK * 512
    pop ecx
    dec ecx
    jnz load_high
    ret

align 8
move:
    dq 0, 0
    dw 0xffff, BUFFER & 0xffff
    db BUFFER >> 16, 0x93, 0, 0
.to:
    dw 0xffff, 0
    db 0, 0x93, 0, 0
    dq 0, 0
command_line:
    db APPEND, 0
.end:
%endif

; Reads CHUNK sectors into BUFFER and advances packet.sector.
read_chunk:
    mov word [packet.segment], BUFFER >> 4
    mov word [packet.count], CHUNK
read:
    mov si, packet
    mov dl, [LOADER - 2]
    mov ah, 0x42
    int 0x13
    jc failed
    movzx eax, word [packet.count]
    add [packet.sector], eax
    ret

failed:
    mov si, text_failed
    call print
.stop:
    hlt
    jmp .stop

go:
    mov dx, COM1 + 3              ; 16550: 115200 baud, 8 bits, no parity
    mov al, 0x80
    out dx, al
    mov dx, COM1
    mov ax, 1
    out dx, ax
    mov dx, COM1 + 3
    mov al, 3
    out dx, al
    mov si, text_go
print:
    mov dx, COM1 + 5
    in al, dx
    test al, 0x20
    jz print
    lodsb
    test al, al
    jz .end
    mov dx, COM1
    out dx, al
    jmp print
.end:
    ret

align 4
packet:
    dw 16
.count:
    dw 0
    dw 0
.segment:
    dw 0
.sector:
    dd 1 + LOADER_SECTORS, 0
text_go:
    db "loader: go", 10, 0
text_failed:
    db "loader: the BIOS could not read the disk", 10, 0
align 8
gdt:
    dq 0, 0x00CF9A000000FFFF, 0x00CF92000000FFFF
gdt_pointer:
    dw $ - gdt - 1
    dd gdt
times LOADER_SECTORS * 512 - ($ - $$) db 0

section payload vstart=0 follows=loader align=512
payload:
%ifdef GUEST
    incbin GUEST
    times -($ - $$) & (CHUNK * 512 - 1) db 0
%else
    incbin KERNEL, 0, SETUP_SECTORS * 512
kernel:
    incbin KERNEL, SETUP_SECTORS * 512
.end:
    times -($ - $$) & (CHUNK * 512 - 1) db 0
initrd:
    incbin INITRD
.end:
    times -($ - $$) & (CHUNK * 512 - 1) db 0
%endif
