// The accelerator with one plain port for each AXI signal, as the C++ harness wants them. Those of a manager end in its
// number; with MANAGER1 there is a second one.
`define PORTS(n) \
  output ar_valid``n, input ar_ready``n, output [31:0] ar_addr``n, output [7:0] ar_len``n, \
  input r_valid``n, output r_ready``n, input [63:0] r_data``n, input [1:0] r_resp``n, input r_last``n, \
  output aw_valid``n, input aw_ready``n, output [31:0] aw_addr``n, output [7:0] aw_len``n, \
  output w_valid``n, input w_ready``n, output [63:0] w_data``n, output [7:0] w_strb``n, output w_last``n, \
  input b_valid``n, output b_ready``n, input [1:0] b_resp``n,
`define CONNECTIONS(n) \
    .axi__``n``__ar__valid(ar_valid``n), .axi__``n``__ar__ready(ar_ready``n), \
    .axi__``n``__ar__payload({ar_len``n, ar_addr``n}), \
    .axi__``n``__r__valid(r_valid``n), .axi__``n``__r__ready(r_ready``n), \
    .axi__``n``__r__payload({r_last``n, r_resp``n, r_data``n}), \
    .axi__``n``__aw__valid(aw_valid``n), .axi__``n``__aw__ready(aw_ready``n), \
    .axi__``n``__aw__payload({aw_len``n, aw_addr``n}), \
    .axi__``n``__w__valid(w_valid``n), .axi__``n``__w__ready(w_ready``n), \
    .axi__``n``__w__payload({w_last``n, w_strb``n, w_data``n}), \
    .axi__``n``__b__valid(b_valid``n), .axi__``n``__b__ready(b_ready``n), .axi__``n``__b__payload(b_resp``n),

module harness (
  `PORTS(0)
`ifdef MANAGER1
  `PORTS(1)
`endif
  input clk, input rst, output irq,
  input csr_ar_valid, output csr_ar_ready, input [8:0] csr_ar_addr,
  output csr_r_valid, input csr_r_ready, output [31:0] csr_r_data, output [1:0] csr_r_resp,
  input csr_aw_valid, output csr_aw_ready, input [8:0] csr_aw_addr,
  input csr_w_valid, output csr_w_ready, input [31:0] csr_w_data,
  output csr_b_valid, input csr_b_ready, output [1:0] csr_b_resp
);
  accelerator dut (
    `CONNECTIONS(0)
`ifdef MANAGER1
    `CONNECTIONS(1)
`endif
    .clk(clk), .rst(rst), .interrupt(irq),
    .csr__ar__valid(csr_ar_valid), .csr__ar__ready(csr_ar_ready), .csr__ar__payload(csr_ar_addr),
    .csr__r__valid(csr_r_valid), .csr__r__ready(csr_r_ready), .csr__r__payload({csr_r_resp, csr_r_data}),
    .csr__aw__valid(csr_aw_valid), .csr__aw__ready(csr_aw_ready), .csr__aw__payload(csr_aw_addr),
    .csr__w__valid(csr_w_valid), .csr__w__ready(csr_w_ready), .csr__w__payload({4'b1111, csr_w_data}),
    .csr__b__valid(csr_b_valid), .csr__b__ready(csr_b_ready), .csr__b__payload(csr_b_resp)
  );
endmodule
