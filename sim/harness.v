// The accelerator with one plain port for each AXI signal, as the C++ harness wants them.
module harness (
  input clk, input rst, output irq,
  output ar_valid, input ar_ready, output [31:0] ar_addr, output [7:0] ar_len,
  input r_valid, output r_ready, input [63:0] r_data, input [1:0] r_resp, input r_last,
  output aw_valid, input aw_ready, output [31:0] aw_addr, output [7:0] aw_len,
  output w_valid, input w_ready, output [63:0] w_data, output [7:0] w_strb, output w_last,
  input b_valid, output b_ready, input [1:0] b_resp,
  input csr_ar_valid, output csr_ar_ready, input [8:0] csr_ar_addr,
  output csr_r_valid, input csr_r_ready, output [31:0] csr_r_data, output [1:0] csr_r_resp,
  input csr_aw_valid, output csr_aw_ready, input [8:0] csr_aw_addr,
  input csr_w_valid, output csr_w_ready, input [31:0] csr_w_data,
  output csr_b_valid, input csr_b_ready, output [1:0] csr_b_resp
);
  accelerator dut (
    .clk(clk), .rst(rst), .interrupt(irq),
    .axi__ar__valid(ar_valid), .axi__ar__ready(ar_ready), .axi__ar__payload({ar_len, ar_addr}),
    .axi__r__valid(r_valid), .axi__r__ready(r_ready), .axi__r__payload({r_last, r_resp, r_data}),
    .axi__aw__valid(aw_valid), .axi__aw__ready(aw_ready), .axi__aw__payload({aw_len, aw_addr}),
    .axi__w__valid(w_valid), .axi__w__ready(w_ready), .axi__w__payload({w_last, w_strb, w_data}),
    .axi__b__valid(b_valid), .axi__b__ready(b_ready), .axi__b__payload(b_resp),
    .csr__ar__valid(csr_ar_valid), .csr__ar__ready(csr_ar_ready), .csr__ar__payload(csr_ar_addr),
    .csr__r__valid(csr_r_valid), .csr__r__ready(csr_r_ready), .csr__r__payload({csr_r_resp, csr_r_data}),
    .csr__aw__valid(csr_aw_valid), .csr__aw__ready(csr_aw_ready), .csr__aw__payload(csr_aw_addr),
    .csr__w__valid(csr_w_valid), .csr__w__ready(csr_w_ready), .csr__w__payload({4'b1111, csr_w_data}),
    .csr__b__valid(csr_b_valid), .csr__b__ready(csr_b_ready), .csr__b__payload(csr_b_resp)
  );
endmodule
